"""Supervised examples as rows: a pair of inputs and targets each, or several, every pair once an epoch."""

import functools
import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Int32, Int64

from mixlm.data.loader import packing
from mixlm.data.loader.epochs import unique_documents
from mixlm.data.loader.one_source import OneSource
from mixlm.data.loader.permutation import permutation
from mixlm.data.store.token_store import StoreSplit
from mixlm.errors import UserError, nearest

# Ours: what a random number is for, beside the uses in epochs.py and interleave.py.
_ORDER_OF_PAIRS = 4
FEATURES = ("inputs", "targets")
ASKED = 64  # Ours: pairs that tell how inputs end; all do so alike but for those that a task cuts itself.
PLAIN_TEXT = "pairs need a seqio Task with the features 'inputs' and 'targets' (--gin_file=data/seqio_task.gin)"


class Pairs(OneSource):
    """The unique set of a split's pairs as a sequence of rows, one pair each, without end or of `epochs` epochs.

    A row holds `lengths["inputs"]` and then `lengths["targets"]` tokens: padding (0) and the inputs, which end where
    the targets begin, and then the targets and padding. What is longer is cut at its end. With `packed` it holds as
    many pairs as fit (see `packing`), always the same ones. Each epoch has each row once in an order drawn from (seed,
    epoch). Tokens, those of the budget too, are counted as rows hold them, without the
    padding. After the last of `epochs` there is padding alone. A row is a function of the seed and its number, and
    costs the same however far it lies.
    """

    def __init__(
        self,
        split: StoreSplit,
        lengths: Mapping[str, int],
        seed: int,
        unique_tokens: int | None = None,
        epochs: int | None = None,
        packed: bool = False,
    ):
        self.lengths, self.seed = dict(lengths), seed
        self.block_length = sum(lengths[feature] for feature in FEATURES)
        self._split, self._documents = split, unique_pairs(split, lengths, unique_tokens)
        self._packed = packed
        self._members, self._bounds = members_of_rows(split, lengths, self._documents, packed)
        self.num_rows, self.num_documents = len(self._bounds) - 1, len(self._documents)
        counts = np.diff(kept_offsets(split, lengths))[self._members]
        self._counts = np.add.reduceat(counts, self._bounds[:-1]) if packed else counts
        self.num_tokens = int(self._counts.sum())
        if self.num_tokens == 0:
            raise UserError("The training split holds no tokens.")
        self._end = None if epochs is None else epochs * self.num_rows
        self._epoch_order = functools.lru_cache(maxsize=4)(self._lay_out_epoch)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the inputs and targets of exactly this unique set, uncut, whatever the seed."""
        digest, split = hashlib.sha256(), self._split
        for document in self._documents.tolist():
            for part in _parts(split, document):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part.astype("<u4").tobytes())
        return digest.hexdigest()

    def tokens_in(self, blocks: int) -> int:
        """The number of tokens in the first `blocks` rows, without padding."""
        epoch, within = divmod(blocks if self._end is None else min(blocks, self._end), self.num_rows)
        return epoch * self.num_tokens + (int(self._epoch_order(epoch)[1][within - 1]) if within else 0)

    def block(self, index: int, before: int = 0) -> Int32[np.ndarray, " L"]:
        """The tokens of row `index`, after `before` zeros: nothing comes before a pair."""
        if index < 0:
            raise IndexError(f"row {index} lies before the first")
        if self._end is not None and index >= self._end:
            return np.zeros(before + self.block_length, np.int32)
        epoch, within = divmod(index, self.num_rows)
        number = int(self._epoch_order(epoch)[0][within])
        members = self._members[self._bounds[number] : self._bounds[number + 1]].tolist()
        if self._packed:
            row = packing.packed([_cut(self._split, document, self.lengths) for document in members], self.lengths)
        else:
            row = pair(self._split, members[0], self.lengths)
        return np.pad(row, (before, 0))

    def _lay_out_epoch(self, epoch: int) -> tuple[Int64[np.ndarray, " D"], Int64[np.ndarray, " D"]]:
        """An epoch's order, and how many tokens it has brought by the end of each of its rows."""
        order = permutation(self.num_rows, self.seed, _ORDER_OF_PAIRS, epoch)
        return order, np.cumsum(self._counts[order])


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Raises UserError unless the lengths are those of inputs and targets."""
    for feature in FEATURES:
        if feature not in lengths:
            raise UserError(
                f"Pairs need TASK_FEATURE_LENGTHS of 'inputs' and 'targets', and there is no {feature!r} in "
                f"{sorted(lengths)}.{nearest(feature, lengths)}"
            )
        if isinstance(lengths[feature], bool) or not isinstance(lengths[feature], int) or lengths[feature] < 1:
            raise UserError(
                f"TASK_FEATURE_LENGTHS[{feature!r}] must be a whole number above 0, got {lengths[feature]!r}."
            )


def unique_pairs(split: StoreSplit, lengths: Mapping[str, int], unique_tokens: int | None) -> Int64[np.ndarray, " D"]:
    """The pairs of the unique set: as many whole ones as the budget holds, each counted as a row holds it."""
    return unique_documents(kept_offsets(split, lengths), unique_tokens)


def kept_offsets(split: StoreSplit, lengths: Mapping[str, int]) -> Int64[np.ndarray, " bounds"]:
    """Offsets of the pairs, each counted at the length that rows of these lengths keep of it.

    Raises UserError where the split is plain text.
    """
    if split.targets is None:
        raise UserError(f"The data have no inputs: {PLAIN_TEXT}.")
    inputs = np.minimum(split.targets - split.offsets[:-1], lengths["inputs"])
    targets = np.minimum(split.offsets[1:] - split.targets, lengths["targets"])
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(inputs + targets, dtype=np.int64)])


def pair(split: StoreSplit, document: int, lengths: Mapping[str, int]) -> Int32[np.ndarray, " L"]:
    """A pair as a row: padding, inputs, targets, padding."""
    row = np.zeros(lengths["inputs"] + lengths["targets"], np.int32)
    inputs, targets = _cut(split, document, lengths)
    middle = lengths["inputs"]
    row[middle - len(inputs) : middle] = inputs
    row[middle : middle + len(targets)] = targets
    return row


def in_order(
    split: StoreSplit, lengths: Mapping[str, int], chosen: Int64[np.ndarray, " R"]
) -> Int32[np.ndarray, "R L"]:
    """The pairs of the given numbers as rows."""
    return np.stack([pair(split, int(number), lengths) for number in chosen])


def inputs_end_with(splits: Iterable[StoreSplit], token: int) -> bool:
    """True where the inputs of most of each split's first pairs end with a token, as a task's do with EOS."""
    found = []
    for split in splits:
        assert split.targets is not None
        last = split.targets[:ASKED]
        found += (split.tokens[last[last > split.offsets[: len(last)]] - 1] == token).tolist()
    return 2 * sum(found) > len(found)


def held_out(split: StoreSplit, lengths: Mapping[str, int]) -> int:
    """The number of validation pairs; UserError where there is none."""
    if not kept_offsets(split, lengths)[-1]:
        raise UserError("The validation split holds no pairs; name another in VALIDATION_SPLIT.")
    return split.num_documents


def members_of_rows(
    split: StoreSplit, lengths: Mapping[str, int], documents: Int64[np.ndarray, " D"], packed: bool
) -> tuple[Int64[np.ndarray, " D"], Int64[np.ndarray, " bounds"]]:
    """(The pairs row after row, where each row begins among them): one a row, or as many as fit."""
    if not packed:
        return documents, np.arange(len(documents) + 1)
    assert split.targets is not None
    inputs = np.minimum(split.targets - split.offsets[:-1], lengths["inputs"])[documents]
    targets = np.minimum(split.offsets[1:] - split.targets, lengths["targets"])[documents]
    order, bounds = packing.packs(inputs, targets, lengths)
    return documents[order], bounds


def rows_of_all(split: StoreSplit, lengths: Mapping[str, int]) -> int:
    """The number of packed rows of all pairs of a split."""
    return len(members_of_rows(split, lengths, np.arange(split.num_documents), True)[1]) - 1


def _cut(split: StoreSplit, document: int, lengths: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The inputs and the targets of a pair, as much of them as rows hold."""
    inputs, targets = (part[: lengths[name]] for part, name in zip(_parts(split, document), FEATURES))
    return inputs, targets


def _parts(split: StoreSplit, document: int) -> tuple[np.ndarray, np.ndarray]:
    """The inputs and the targets of a pair, as they are stored."""
    assert split.targets is not None
    begins, middle, ends = split.offsets[document], split.targets[document], split.offsets[document + 1]
    return split.tokens[begins:middle], split.tokens[middle:ends]
