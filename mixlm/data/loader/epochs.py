"""A unique set of documents, walked epoch after epoch in blocks: without end, or padded after the last epoch."""

import functools
import hashlib

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt

from mixlm.data.loader.one_source import OneSource
from mixlm.data.loader.permutation import all_shuffled, permutation, round_keys, shuffled
from mixlm.data.store.token_store import StoreSplit
from mixlm.errors import UserError

# Ours: what a random number is for: no two uses share numbers. 3: interleave.py, 4: pairs.py.
_ORDER_OF_ALL, _ORDER_OF_EPOCH, _BLOCKS_OF_EPOCH = 0, 1, 2
# Ours: the tokens of an epoch that are laid out in memory, 32 or 64 MiB of them; of a larger set blocks are read one by
# one, and so are those of a set that is hardly longer than a block.
LAID_OUT, FEWEST_BLOCKS = 2**24, 4


def unique_documents(offsets: Int64[np.ndarray, " bounds"], unique_tokens: int | None) -> Int64[np.ndarray, " D"]:
    """The documents of the unique set: as many whole ones as `unique_tokens` holds, first come first served.

    They come in a fixed pseudo-random order of all documents that depends on their number alone. So the set is the same
    for every seed, batch and host, a smaller budget's set is part of a larger one's, and a corpus that is sorted, say
    by year, gives documents from all over. A budget over the split's size gives all of it. Raises UserError where the
    first document alone is over the budget.
    """
    order = permutation(len(offsets) - 1, _ORDER_OF_ALL)
    if unique_tokens is None:
        return order
    totals = np.cumsum(np.diff(offsets)[order])
    count = int(np.searchsorted(totals, unique_tokens, side="right"))
    if count == 0 or totals[count - 1] == 0:
        smallest = int(totals[totals > 0][0]) if totals.any() else 0
        raise UserError(
            f"UNIQUE_TOKENS = {unique_tokens} holds no whole document; the smallest possible here is {smallest}."
        )
    return order[:count]


class Repeated(OneSource):
    """The unique set of a split as a sequence of blocks of `block_length` tokens, without end or of `epochs` epochs.

    Each epoch concatenates the set's documents in a fresh order, drawn from (seed, epoch), and one epoch follows the
    other without a gap, so each epoch holds each token once. Blocks that begin in the same epoch change places among
    themselves, so that a batch holds few neighbours; the one that reaches into the next epoch stays the last, so that
    no token of an epoch comes before the epoch before it is done. After the last of `epochs` there is padding (0). A
    block is a function of the seed and its number, and costs the same however far it lies.
    """

    def __init__(
        self,
        split: StoreSplit,
        block_length: int,
        seed: int,
        unique_tokens: int | None = None,
        epochs: int | None = None,
    ):
        if block_length < 1:
            raise UserError(f"A block holds at least one token, not {block_length}.")
        self.block_length = block_length
        self.seed = seed
        self._split = split
        self._documents = unique_documents(split.offsets, unique_tokens)
        self._lengths = np.diff(split.offsets)[self._documents]
        self.num_documents = len(self._documents)
        self.num_tokens = int(self._lengths.sum())
        if self.num_tokens == 0:
            raise UserError("The training split holds no tokens.")
        self._end = None if epochs is None else epochs * self.num_tokens
        # A block meets at most two epochs, unless the whole set is shorter than a block.
        self._epoch_layout = functools.lru_cache(maxsize=4)(self._lay_out_epoch)
        self._epoch_tokens = functools.lru_cache(maxsize=2)(self._tokens_of_epoch)
        self._epoch_places = functools.lru_cache(maxsize=2)(self._places_of_epoch)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the tokens of exactly this unique set, whatever the block length and the seed."""
        digest = hashlib.sha256()
        for start, length in zip(self._split.offsets[self._documents], self._lengths):
            digest.update(int(length).to_bytes(8, "little"))
            digest.update(self._split.tokens[start : start + length].astype("<u4").tobytes())
        return digest.hexdigest()

    def tokens_in(self, blocks: int) -> int:
        """The number of tokens in the first `blocks` blocks, without padding."""
        return blocks * self.block_length if self._end is None else min(blocks * self.block_length, self._end)

    def position_of(self, index: int) -> int:
        """The position in the stream at which block `index` begins, in tokens: a multiple of the block length."""
        epoch = self.epoch_of(index)
        first, count = self._blocks_of(epoch)
        key = round_keys(self.seed, _BLOCKS_OF_EPOCH, epoch)
        place = shuffled(index - first, count, key)
        if (epoch + 1) * self.num_tokens % self.block_length:
            # The last block reaches into the next epoch: it changes places with whichever came last.
            if index == first + count - 1:
                place = count - 1
            elif place == count - 1:
                place = shuffled(count - 1, count, key)
        return (first + place) * self.block_length

    def epoch_of(self, index: int) -> int:
        """The epoch, from 0, in which block `index` begins."""
        if index < 0:
            raise IndexError(f"block {index} lies before the first")
        return index * self.block_length // self.num_tokens

    def block(self, index: int, before: int = 0) -> Int32[np.ndarray, " L"]:
        """The tokens of block `index`, after the `before` (0 or 1) tokens that come before it, 0 before the first."""
        start = self.position_of(index)
        position = start - before
        filled = max(-position, 0)
        block = np.zeros(before + self.block_length, np.int32)
        end = start + self.block_length if self._end is None else min(start + self.block_length, self._end)
        length = max(end - position, 0)
        while filled < length:
            epoch, within = divmod(position + filled, self.num_tokens)
            starts, ends = self._epoch_layout(epoch)
            document = int(np.searchsorted(ends, within, side="right"))
            take = min(int(ends[document]) - within, length - filled)
            source = int(starts[document]) + within - (int(ends[document - 1]) if document else 0)
            block[filled : filled + take] = self._split.tokens[source : source + take]
            filled += take
        return block

    def blocks(self, indices: Int[np.ndarray, " B"], before: int = 0) -> Int32[np.ndarray, "B L"]:
        """The tokens of several blocks, those of `block`, read from whole epochs in memory."""
        size = self.num_tokens
        if not FEWEST_BLOCKS * self.block_length <= size <= LAID_OUT or not len(indices):
            return super().blocks(indices, before)
        if indices.min() < 0:
            raise IndexError(f"block {indices.min()} lies before the first")
        starts, epochs = np.empty(len(indices), np.int64), indices.astype(np.int64) * self.block_length // size
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            first, places = self._epoch_places(epoch)
            starts[here] = (first + places[indices[here] - first]) * self.block_length
        positions = starts[:, None] + np.arange(-before, self.block_length)
        epochs, within = np.divmod(positions, size)
        rows = np.zeros(positions.shape, np.int32)
        for epoch in np.unique(epochs[epochs >= 0]).tolist():
            here = epochs == epoch
            rows[here] = self._epoch_tokens(epoch)[within[here]]
        if self._end is not None:
            rows[positions >= self._end] = 0
        return rows

    def _tokens_of_epoch(self, epoch: int) -> UInt[np.ndarray, " tokens"]:
        """An epoch's tokens in its order."""
        starts, ends = self._epoch_layout(epoch)
        lengths = np.diff(ends, prepend=0)
        return self._split.tokens[np.repeat(starts - (ends - lengths), lengths) + np.arange(self.num_tokens)]

    def _places_of_epoch(self, epoch: int) -> tuple[int, Int64[np.ndarray, " blocks"]]:
        """The first block that begins in an epoch, and the place of each of them (see `position_of`)."""
        first, count = self._blocks_of(epoch)
        places = all_shuffled(count, round_keys(self.seed, _BLOCKS_OF_EPOCH, epoch))
        if (epoch + 1) * self.num_tokens % self.block_length:
            came_last = int(np.argmax(places))
            places[came_last], places[-1] = places[-1], count - 1
        return first, places

    def _blocks_of(self, epoch: int) -> tuple[int, int]:
        """The first block that begins in an epoch, and how many do."""
        first, after = (-(-e * self.num_tokens // self.block_length) for e in (epoch, epoch + 1))
        return first, after - first

    def _lay_out_epoch(self, epoch: int) -> tuple[Int64[np.ndarray, " D"], Int64[np.ndarray, " D"]]:
        """For each document in the epoch's order: where it begins in the store, and where it ends in the epoch."""
        order = permutation(self.num_documents, self.seed, _ORDER_OF_EPOCH, epoch)
        return self._split.offsets[self._documents[order]], np.cumsum(self._lengths[order])


def sequential(split: StoreSplit, block_length: int, before: int = 0) -> Int32[np.ndarray, "blocks L"]:
    """A split cut into blocks in its own order, the last incomplete one dropped: the same at every evaluation.

    With `before` 1 a first column holds the token before each block, 0 before the first. Raises UserError where the
    split is shorter than one block.
    """
    count = split.num_tokens // block_length
    if count == 0:
        raise UserError(
            f"The validation split holds {split.num_tokens} tokens, less than one block of {block_length}; give more"
            " text, hold out more of it, or shorten the block."
        )
    return with_previous(split.tokens[: count * block_length].reshape(count, block_length).astype(np.int32), before)


def with_previous(rows: Int32[np.ndarray, "R L"], before: int) -> Int32[np.ndarray, "R M"]:
    """Rows that follow on one another, with `before` 1 after a column of the token before each, 0 before the first."""
    return np.column_stack([np.append(0, rows[:-1, -1]).astype(np.int32), rows]) if before else rows
