"""BabyLM's zero-shot suites: read in their own formats, and answered in the layout that their collation reads."""
