"""Documents of raw text, one file a kind."""
