"""Blocks of a split with the bytes of text that each of their tokens covers, for figures per byte."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int32, Int64

from mixlm.data.store.token_store import StoreSplit
from mixlm.data.tasks import CountsBytes, Task, TokenBytes
from mixlm.data.vocabulary import Vocabulary


def bytes_of_blocks(
    task: Task, vocabulary: Vocabulary, name: str, split: StoreSplit, blocks: Int64[np.ndarray, " N"], length: int
) -> Int32[np.ndarray, "N L"] | None:
    """The bytes of the documents' own text that each token covers, in these blocks of `length` tokens of a split.

    Only the documents that lie in the blocks are tokenised once more. None where the task cannot tell, or where its
    text gives other tokens than the split holds.
    """
    if not isinstance(task, CountsBytes):
        return None
    found = np.zeros((len(blocks), length), np.int32)
    starts = np.unique(blocks) * length
    # Documents without a token begin where the next one does, which is the one that is found.
    first = np.searchsorted(split.offsets, starts, side="right") - 1
    last = np.searchsorted(split.offsets, starts + length - 1, side="right") - 1
    numbers = sorted({number for a, b in zip(first, last) for number in range(int(a), int(b) + 1)})
    places = {int(start): np.flatnonzero(blocks * length == start) for start in starts}
    made = task.token_bytes(vocabulary, name, numbers)
    for number in numbers:
        begin, end = (int(offset) for offset in split.offsets[number : number + 2])
        document = next(made, None)
        if document is None or not np.array_equal(document.tokens, split.tokens[begin:end]):
            return None
        for start in range(begin // length * length, end, length):
            if start in places:
                low, high = max(begin, start), min(end, start + length)
                found[places[start], low - start : high - start] = document.sizes[low - begin : high - begin]
    return found


def leading_blocks(documents: Iterator[TokenBytes], blocks: int, length: int) -> Int32[np.ndarray, "blocks L"] | None:
    """The bytes of the tokens in the first `blocks` blocks of a text; None where it ends before."""
    sizes, tokens = [np.zeros(0, np.int64)], 0
    while tokens < blocks * length:
        document = next(documents, None)
        if document is None:
            return None
        sizes.append(document.sizes)
        tokens += len(document.sizes)
    return np.concatenate(sizes)[: blocks * length].reshape(blocks, length).astype(np.int32)
