"""Supervised tasks: the table of tasks, their records, and T5's text-to-text form of them."""
