"""A run as a model of lm-evaluation-harness, in every scoring mode of its network."""
