"""Documents held out by a hash of their text, so that equal ones are on one side of the split."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

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


def by_size(
    keys: Sequence[bytes], sizes: Sequence[int], fraction: float, path: str, apart: Sequence[Hashable] | None = None
) -> set[int]:
    """Positions for validation: whole documents, in the order of their keys' hashes, that fit into `fraction` of all.

    `keys` and `sizes` are those of each document. Documents of one key are held out together, or of one entry of
    `apart` where that is given. At least one key is on each side: the smallest is held out where none fits. Raises
    UserError that names `path` where there are fewer than two.
    """
    groups: dict[Hashable, list[int]] = {}
    for position, group in enumerate(keys if apart is None else apart):
        groups.setdefault(group, []).append(position)
    if len(groups) < 2:
        raise UserError(f"{path!r} holds fewer than two different documents to train and to test on.")
    weights = {group: sum(sizes[position] for position in places) for group, places in groups.items()}
    order = sorted(groups, key=lambda group: (hashlib.sha256(keys[groups[group][0]]).digest(), groups[group][0]))
    budget = fraction * sum(sizes)
    chosen: list[Hashable] = []
    for group in order:
        if weights[group] <= budget and len(chosen) < len(groups) - 1:
            chosen.append(group)
            budget -= weights[group]
    return {position for group in chosen or [min(order, key=weights.__getitem__)] for position in groups[group]}


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
