"""Copies: equal documents within a token store, across its split, and across the parts of a mixture."""

import hashlib
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt64

from mixlm.data.sources.base import SPLITS, digest
from mixlm.data.store.fingerprint_cache import load_record, save_record
from mixlm.data.store.token_store import StoreSplit, TokenStore


def copies_in(name: str, store: TokenStore) -> str:
    """A line about documents that have the same tokens; empty where all differ.

    Those of a text of one's own are on one side of the split. A split that comes with the data may have them on both.
    """
    total = sum(store.split(split).num_documents for split in SPLITS)
    copies, shared = _cached("copies", [store], _count)
    if not copies:
        return ""
    sides = (
        f"{shared:,} held-out documents are training documents as well"
        if shared
        else "none of them is on both sides of the split"
    )
    return f"{name}: {copies:,} of {total:,} documents are copies of others; {sides}."


def shared_by_parts(parts: Sequence[tuple[str, TokenStore]]) -> str:
    """A line about the documents that one part of a mixture holds out and another trains on; empty where none is."""
    (shared,) = _cached("shared by parts", [store for _, store in parts], _count_across)
    if not shared:
        return ""
    names = ", ".join(name for name, _ in parts)
    return f"{names}: {shared:,} documents that one of them holds out are training documents of another."


def _cached(what: str, stores: Sequence[TokenStore], count: Callable[[Sequence[TokenStore]], list[int]]) -> list[int]:
    """The result of `count` on stores, which are read once: the numbers are kept beside the digests of files."""
    key = digest(what, [store.manifest["fingerprint"] for store in stores])
    found = load_record(key)
    if not isinstance(found, list):
        found = count(stores)
        save_record(key, found)
    return found


def _count(stores: Sequence[TokenStore]) -> list[int]:
    train, held_out = (_hashes(stores[0].split(split)) for split in ("train", "validation"))
    unique = np.unique(train)
    shared = int(np.isin(held_out, unique).sum())
    return [len(train) + len(held_out) - len(np.union1d(unique, held_out)), shared]


def _count_across(stores: Sequence[TokenStore]) -> list[int]:
    train = [_hashes(store.split("train")) for store in stores]
    shared = 0
    for part, store in enumerate(stores):
        others = [hashes for other, hashes in enumerate(train) if other != part]
        if others:
            shared += int(np.isin(_hashes(store.split("validation")), np.concatenate(others)).sum())
    return [shared]


def _hashes(split: StoreSplit) -> UInt64[np.ndarray, " documents"]:
    """A hash of each document's tokens: 8 bytes a document, so that memory holds those of any corpus."""
    bounds = split.offsets.tolist()
    digests = (
        hashlib.blake2b(split.tokens[first:last].tobytes(), digest_size=8).digest()
        for first, last in itertools.pairwise(bounds)
    )
    return np.frombuffer(b"".join(digests), np.uint64)
