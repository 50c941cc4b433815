"""Rows of tokens as a function of (seed, step): epochs, permutations, mixing rates, batches."""
