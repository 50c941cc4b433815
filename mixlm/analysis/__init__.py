"""Reports on studies: from a tidy table of cells to tables, tests, optima, figures and verdicts."""
