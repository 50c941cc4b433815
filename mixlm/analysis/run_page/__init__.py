"""The page of a run: what was run, its curves, its examples, its accounts, and what went wrong."""
