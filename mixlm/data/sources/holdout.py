"""Documents held out by a hash of their text: the same ones whatever the order, the files and the other documents."""

import hashlib
from collections.abc import Callable, Iterable, Iterator

from mixlm.data.sources.base import check_split
from mixlm.errors import UserError


def by_hash(documents: Callable[[], Iterable[str]], fraction: float, split: str, path: str) -> Iterator[str]:
    """The documents of a split: validation is about `fraction` of all, and at least one is on each side.

    Equal documents are on one side, and memory does not grow with the corpus. Raises UserError that names `path` where
    there are fewer than two different documents.
    """
    wanted = check_split(split) == "validation"
    limit = _limit(documents(), fraction, path)
    for document in documents():
        if (_hash(document) < limit) == wanted:
            yield document


def _limit(documents: Iterable[str], fraction: float, path: str) -> int:
    """Documents whose hash is below are held out: the wished share of all hashes, as far as both sides get one."""
    wished = int(fraction * 2**64)
    low, high = 2**64, -1
    for document in documents:
        place = _hash(document)
        low, high = min(place, low), max(place, high)
        if low < wished <= high:
            return wished
    if low >= high:
        raise UserError(f"{path!r} holds fewer than two different documents to train and to test on.")
    # Too few to have met the limit: the lowest alone is held out, or all but the highest are.
    return low + 1 if wished <= low else high


def _hash(document: str) -> int:
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big")
