"""Pictures of objectives, tokens and runs for notebooks and scripts, drawn from plain values."""
