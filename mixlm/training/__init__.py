"""From a recipe to its last checkpoint: prepare, step, loop, validate, report."""
