"""Floor 1: data, on the host only. From text to token blocks that are a function of (seed, step)."""
