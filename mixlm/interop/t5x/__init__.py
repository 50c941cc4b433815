"""A run for T5X: its checkpoint, and its network and objectives as a model of T5X's trainer."""
