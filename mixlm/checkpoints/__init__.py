"""Checkpoints and run folders: saving, restoring, checksums, warm starts, other people's formats."""
