"""Exchange with transformers: runs go out as folders that it loads, and its checkpoints become runs."""
