"""Streaming: documents are tokenised as they are read, and nothing but the vocabulary is stored."""

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32, Int64

from mixlm.data.loader.epochs import with_previous
from mixlm.data.sources.base import digest
from mixlm.data.tasks import CountsBytes, Task
from mixlm.data.token_bytes import leading_blocks
from mixlm.data.vocabulary import Vocabulary
from mixlm.errors import UserError

VALIDATION_ROWS = 256  # Ours: what validation takes of a stream where nobody says how many rows it wants.
CAVEAT = (
    "nothing is stored, so the order is the source's, there is no budget of unique tokens, the epoch is not known"
    " before the text has ended once, and a resume reads again what the run had read"
)


@dataclass(frozen=True)
class StreamSummary:
    """Statistics of a streamed corpus before it is read; its number of unique tokens is not known."""

    name: str
    vocab_size: int
    fingerprint: str
    unique_tokens: None = None


@dataclass(frozen=True, eq=False)
class StreamedData:
    """A task that is read as it is trained on, in place of `PreparedData`.

    It cannot promise what a token store does: documents come in the source's order, the same in every epoch, one after
    the other without a gap; UNIQUE_TOKENS, EPOCHS and FREQUENCY_BANDS are refused; every process reads the whole text,
    and after a resume or a fork all that came before. What it does promise: a batch is a function of the step. Files
    of one's own are read once more at the first start, for their fingerprint and for a vocabulary that is trained.
    """

    task: Task
    vocabulary: Vocabulary
    task_fingerprint: str

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def said(self) -> str:
        """One line that describes the data before a run starts."""
        return f"{self.name}, streamed: no token store, no budget, the epoch not known (set {self._fingerprint[:12]})"

    @property
    def summary(self) -> StreamSummary:
        """The name, the vocabulary's size, and the fingerprint."""
        return StreamSummary(self.name, self.vocabulary.token_ids.vocab_size, self._fingerprint)

    @property
    def _fingerprint(self) -> str:
        return digest("stream", self.task_fingerprint, self.vocabulary.fingerprint)

    def train(self, block_length: int, seed: int, epochs: int | None = None) -> "Streamed":
        """The train split in blocks, without end; the seed has no part in their order."""
        del seed
        self.rows_of(block_length, epochs)
        return Streamed(lambda: self._documents("train"), block_length, self._fingerprint)

    def rows_of(self, block_length: int, epochs: int | None) -> None:
        """Raises UserError where epochs are asked for: how many rows they take is not known."""
        if epochs is not None:
            raise UserError(f"EPOCHS = {epochs} need a token store, and STREAM = True makes none: give TRAIN_STEPS.")

    def validation(self, block_length: int) -> Int32[np.ndarray, "blocks L"]:
        """The first VALIDATION_ROWS blocks of the validation split, or as many as it has."""
        return self.validation_rows(block_length, VALIDATION_ROWS, again=False)

    def validation_size(self, block_length: int) -> int:
        """The number of blocks of `validation`."""
        return len(self.validation(block_length))

    def validation_rows(
        self, block_length: int, count: int, again: bool = True, before: int = 0
    ) -> Int32[np.ndarray, "blocks L"]:
        """The first `count` blocks of the validation split; a shorter split is gone through again.

        With `before` 1 a first column holds the token before each block, 0 before the first.
        """
        wanted, found, tokens = count * block_length, [], 0
        for document in self._documents("validation"):
            found.append(document)
            tokens += len(document)
            if tokens >= wanted:
                break
        blocks = min(tokens // block_length, count)
        if not blocks:
            raise UserError(
                f"The validation split holds {tokens} tokens, less than one block of {block_length}; give more text,"
                " hold out more of it, or shorten the block."
            )
        rows = np.concatenate(found)[: blocks * block_length].reshape(blocks, block_length).astype(np.int32)
        rows = with_previous(rows, before)
        return rows[np.arange(count) % blocks] if again else rows

    def validation_bytes(self, block_length: int, count: int) -> Int32[np.ndarray, "blocks L"] | None:
        """The bytes of text that each token of `validation_rows` covers; None where the task cannot tell."""
        if not isinstance(self.task, CountsBytes):
            return None
        blocks = len(self.validation_rows(block_length, count, again=False))
        documents = self.task.token_bytes(self.vocabulary, "validation", itertools.count())
        sizes = leading_blocks(documents, blocks, block_length)
        return None if sizes is None else sizes[np.arange(count) % blocks]

    def token_counts(self) -> Int64[np.ndarray, " V"]:
        """Raises UserError: the frequencies of tokens are not known before all have been read."""
        raise UserError("FREQUENCY_BANDS need a token store, and STREAM = True makes none.")

    def _documents(self, split: str) -> Iterator[np.ndarray]:
        return (document.tokens for document in self.task.tokenized(self.vocabulary, split))


class Streamed:
    """A text without end in blocks of `block_length` tokens: block i holds the i-th `block_length` tokens.

    `documents` begins a pass over the text. Blocks are read in order: one that was passed by costs a new beginning, one
    that lies ahead all that is before it.
    """

    num_documents = 0  # not known
    num_tokens = math.inf

    def __init__(self, documents: Callable[[], Iterator[np.ndarray]], block_length: int, fingerprint: str):
        if block_length < 1:
            raise UserError(f"A block holds at least one token, not {block_length}.")
        self.block_length, self.fingerprint = block_length, fingerprint
        self.tokens_of_pass: int | None = None
        self._documents = documents
        # Batches are read ahead in a thread of their own, and the run may ask as well.
        self._lock = threading.Lock()
        self._begin()

    @property
    def parts(self) -> tuple["Streamed", ...]:
        """The sources: this one."""
        return (self,)

    def blocks(self, indices: Int[np.ndarray, " B"], before: int = 0) -> Int32[np.ndarray, "B L"]:
        """The tokens of several blocks, one per row, after the `before` (0 or 1) tokens that come before each."""
        with self._lock:
            rows = [self._block(int(index))[1 - before :] for index in indices]
        return np.stack(rows) if rows else np.empty((0, before + self.block_length), np.int32)

    def rows(
        self, step: int, batch_size: int, places: Int[np.ndarray, " R"], before: int = 0
    ) -> Int32[np.ndarray, "R L"]:
        """Rows of a step of batches of `batch_size` rows: row r of step s is block `s * batch_size + r`."""
        return self.blocks(step * batch_size + places, before)

    def counts(self, steps: int, batch_size: int) -> list[int]:
        """The number of rows read after `steps` steps."""
        return [steps * batch_size]

    def tokens_in(self, blocks: int) -> int:
        """The number of tokens in the first `blocks` blocks."""
        return blocks * self.block_length

    def figures(self, steps: int, batch_size: int) -> dict[str, float | int | str]:
        """The tokens that have been read after so many steps and, from the end of the first pass on, the epoch."""
        tokens = self.tokens_in(steps * batch_size)
        found: dict[str, float | int | str] = {"tokens": tokens, "set": self.fingerprint[:12]}
        if self.tokens_of_pass is not None and tokens >= self.tokens_of_pass:
            found["epoch"] = tokens / self.tokens_of_pass
        return found

    def _begin(self) -> None:
        self._next, self._tokens = 0, self._endless()
        # What is left of what was read, after the token before it: 0 before the first block.
        self._rest = np.zeros(1, np.int64)

    def _endless(self) -> Iterator[np.ndarray]:
        while True:
            tokens = 0
            for document in self._documents():
                tokens += len(document)
                yield document
            if not tokens:
                raise UserError("The training split holds no tokens.")
            self.tokens_of_pass = tokens

    def _block(self, index: int) -> Int32[np.ndarray, " M"]:
        """The token before a block, and the block."""
        if index < 0:
            raise IndexError(f"block {index} lies before the first")
        if index < self._next:
            self._begin()
        while True:
            parts, length = [self._rest], len(self._rest)
            while length <= self.block_length:
                parts.append(next(self._tokens))
                length += len(parts[-1])
            joined = np.concatenate(parts)
            block, self._rest = joined[: self.block_length + 1], joined[self.block_length :]
            self._next += 1
            if self._next > index:
                return block.astype(np.int32)
