"""Exchange with other libraries: checkpoints, tokenizers and evaluation."""
