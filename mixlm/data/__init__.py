"""Text to rows of tokens, on the host alone: sources, vocabularies, the token store, the loader."""
