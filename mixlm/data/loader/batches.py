"""Batches as a function of (seed, step), read ahead by Grain."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32

from mixlm.data.loader.quiet_grain import import_grain
from mixlm.errors import UserError

READ_AHEAD = 8  # Ours: a few batches hide a hiccup of the disk, and cost little memory.


@runtime_checkable
class Walk(Protocol):
    """An order of rows: each is a function of the seed, the step and its place in the batch alone."""

    def rows(
        self, step: int, batch_size: int, places: Int[np.ndarray, " R"], before: int = 0
    ) -> Int32[np.ndarray, "R L"]:
        """The tokens of some rows of a step, at `places` in a batch of `batch_size` rows.

        With `before` 1 a first column holds the token before each row in its text, 0 where there is none.
        """
        ...


def as_batch(rows: Int[Any, "R L"], before: int = 0) -> dict[str, Any]:
    """Rows, of the host or of a device, as a batch: `tokens`, and `previous` where their first column is the token
    before each row.
    """
    return {"tokens": rows[:, 1:], "previous": rows[:, 0]} if before else {"tokens": rows}


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of blocks: what row r of step s holds, `walk` says; each process has a run of the rows.

    With `before` 1 they also hold the token before each row, as `previous`.
    """

    walk: Walk
    batch_size: int
    process_index: int = 0
    process_count: int = 1
    before: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise UserError(
                f"BATCH_SIZE = {self.batch_size} cannot be shared equally by {self.process_count} processes."
            )
        if not 0 <= self.process_index < self.process_count:
            raise UserError(f"There is no process {self.process_index} of {self.process_count}.")

    def batch(self, step: int) -> dict[str, Int32[np.ndarray, "B ..."]]:
        """The rows of a step that this process holds, as `tokens`: a function of the seed and the step alone."""
        rows = self.batch_size // self.process_count
        first = self.process_index * rows
        return as_batch(self.walk.rows(step, self.batch_size, np.arange(first, first + rows), self.before), self.before)

    def iterate(self, start_step: int = 0) -> Iterator[tuple[int, dict[str, Int32[np.ndarray, "B ..."]]]]:
        """Steps and their batches from `start_step` on, without end, read ahead by Grain in a thread of its own."""
        grain = import_grain()
        steps = grain.MapDataset.source(_Steps(self))[start_step:]
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=READ_AHEAD)
        # `yield from` hands on the closing of this generator, which ends Grain's thread.
        yield from steps.to_iter_dataset(options)


@dataclass(frozen=True, eq=False)
class _Steps:
    """All steps as a source for Grain, whose sources have a length: more steps than anyone takes."""

    batches: Batches

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, step: int) -> tuple[int, dict[str, np.ndarray]]:
        return int(step), self.batches.batch(int(step))
