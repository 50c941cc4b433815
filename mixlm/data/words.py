"""Words of a text, as whitespace parts them, and how many of them a run has seen after so many steps."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from mixlm.data.sources.base import digest
from mixlm.data.store.fingerprint_cache import load_record, save_record
from mixlm.data.tasks import Task
from mixlm.errors import UserError

WORDS_VERSION = 1  # to be raised whenever words would be counted otherwise, so that a stale record is not used
# Ours: BabyLM's texts of 10M words hold up to a hundredth less, and ten epochs of one shall end as its chck_100M.
SHORT = Fraction(1, 100)


@runtime_checkable
class CountsWords(Task, Protocol):
    """A task that knows its documents' text, and so their words."""

    def words(self, split: str) -> Iterator[int]:
        """The number of words of each document of a split, as `tokenized` gives them."""
        ...


def words_in(task: Task | None, documents: Int64[np.ndarray, " D"], fingerprint: str) -> int:
    """The words of these documents of the train split, cached by the store's `fingerprint` and their number.

    A unique set is the beginning of one fixed order (`unique_documents`), so that its size says which it is.

    Raises UserError where the task has no plain text.
    """
    if not isinstance(task, CountsWords):
        raise UserError("KEEP_AT_WORDS counts the words of plain text, and the data are a Task of seqio's.")
    key = digest("words", WORDS_VERSION, fingerprint, len(documents))
    record = load_record(key)
    if isinstance(record, int):
        return record
    found = int(np.fromiter(task.words("train"), np.int64)[documents].sum())
    save_record(key, found)
    return found


class WordsSeen:
    """The words that a run has seen after so many steps: of each source its tokens, times its words for a token.

    The words and tokens are those of the source's whole unique set, so that the count is exact at the end of each
    epoch; within one its rows come in a random order. `data` and `blocks` are the prepared data and their walk.
    """

    def __init__(self, data: Any, blocks: Any, batch_size: int) -> None:
        self.blocks, self.batch_size = blocks, batch_size
        self.of_set = sum(part.words for part in data.parts)
        self.rates = [Fraction(part.words, walk.num_tokens) for part, walk in zip(data.parts, blocks.parts)]

    def after(self, steps: int) -> Fraction:
        """The words of the first `steps` steps."""
        rows = self.blocks.counts(steps, self.batch_size)
        parts = zip(self.rates, self.blocks.parts, rows)
        return sum((rate * walk.tokens_in(count) for rate, walk, count in parts), start=Fraction(0))

    def first_step(self, words: int, steps: int) -> int:
        """The first of `steps` steps by which so many words were seen; UserError where they never are.

        The last one serves where the run sees up to SHORT of them fewer.
        """
        found = bisect_left(range(steps + 1), Fraction(words), key=self.after)
        if found <= steps:
            return found
        if self.after(steps) < words * (1 - SHORT):
            raise UserError(
                f"KEEP_AT_WORDS = {words:,} is beyond the {int(self.after(steps)):,} words that the run's {steps:,} "
                "steps see: leave it out, or train for longer."
            )
        return steps


def check_counts(counts: Sequence[Any], dataset: Any) -> None:
    """Raises UserError for counts that are no whole numbers, and for data whose words are not known beforehand."""
    for words in counts:
        if isinstance(words, bool) or not isinstance(words, int | float) or not words >= 1 or words % 1:
            raise UserError(f"KEEP_AT_WORDS holds whole numbers of words above 0, such as 1e6, not {words!r}.")
    if counts and dataset.pairs is not None:
        raise UserError("KEEP_AT_WORDS counts the words of plain text, and the data's rows are pairs.")
    if counts and getattr(dataset, "stream", False):
        raise UserError("KEEP_AT_WORDS needs a token store, and STREAM = True makes none.")


def name_of(words: int) -> str:
    """The name of the checkpoint after so many words, as BabyLM's pipeline calls it: chck_1M; chck_5K, chck_77."""
    for size, letter in ((10**6, "M"), (10**3, "K")):
        if words % size == 0:
            return f"chck_{words // size}{letter}"
    return f"chck_{words}"


def named_steps(seen: WordsSeen, counts: Iterable[float], steps: int) -> Mapping[int, Sequence[str]]:
    """The names of the checkpoints at the first steps by which these counts of words are seen, by step."""
    found: dict[int, list[str]] = {}
    for words in sorted({int(count) for count in counts}):
        found.setdefault(seen.first_step(words, steps), []).append(name_of(words))
    return found
