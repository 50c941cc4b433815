"""Scoring a trained run: perplexity and minimal pairs in every mode of its network."""
