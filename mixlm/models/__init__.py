"""Flax networks; nothing but gin files imports them."""
