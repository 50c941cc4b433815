"""Studies: a recipe's macros varied over a grid, trained cell by cell, and collected into one tidy table."""
