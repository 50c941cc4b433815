"""Evaluation of supervised tasks by their own metrics: predictions, scores, metrics, and programs that are run."""
