"""Token stores of a few documents."""

from pathlib import Path

import numpy as np

from mixlm.data.store import token_store
from mixlm.data.store.token_store import StoreSplit

DOCUMENTS = ([5, 6, 7], [], [1], [2, 3, 4, 8191])


def documents(lists=DOCUMENTS):
    return [token_store.Tokenized(np.asarray(tokens, np.int32), text_bytes=2 * len(tokens)) for tokens in lists]


def from_number(made: list[token_store.Tokenized]) -> token_store.Documents:
    return lambda first: iter(made[first:])


def both(lists=DOCUMENTS) -> dict[str, token_store.Documents]:
    return {"train": from_number(documents(lists)), "validation": from_number(documents([[9, 9]]))}


def build(folder: Path, splits, vocab_size=8192, log=lambda line: None) -> token_store.TokenStore:
    return token_store.open_or_build(folder, lambda: splits, vocab_size, "text", "vocabulary", log)


def built(folder: Path, vocab_size=8192, lists=DOCUMENTS) -> token_store.TokenStore:
    return build(folder, both(lists), vocab_size)


def split_of(lengths) -> StoreSplit:
    """A split in which token t is the number t, so that a token tells where it comes from."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return StoreSplit(np.arange(offsets[-1], dtype=np.uint32), offsets, text_bytes=0)
