"""Vocabularies, one file a kind: SentencePiece, JSON of the `tokenizers` library, bytes."""
