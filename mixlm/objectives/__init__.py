"""Objectives: frozen dataclasses that corrupt rows of tokens and score a network on them."""
