"""Tokenised documents on the disk: the memory-mapped store, its journal, its locks and fingerprints."""
