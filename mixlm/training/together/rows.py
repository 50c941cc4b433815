"""The rows of cells, step by step: each distinct walk is read once, ahead of the device, in blocks of steps."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Shaped

STEPS = 32  # Ours: steps of a block; 100 cells of 16 rows of 128 tokens make 13 MB of it.


class Rows:
    """The rows of steps `i * STEPS` to `(i + 1) * STEPS - 1`, [STEPS, walks, B, before + L], as one array.

    They are those of `loader.batches.Batches`: `walk.rows` of a step. While a block is trained on, a thread of its own
    reads the next.
    """

    def __init__(self, walks: Sequence[Any], batch_size: int, before: int, vocab_size: int):
        self.walks = list(walks)
        self._size, self._before = batch_size, before
        self._dtype = np.uint16 if vocab_size <= 2**16 else np.int32
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._blocks: dict[int, Future[np.ndarray]] = {}

    def block(self, step: int) -> Shaped[np.ndarray, "S W B L"]:
        """The block that holds a step; begins to read the one after it."""
        index = step // STEPS
        for wanted in (index, index + 1):
            if wanted not in self._blocks:
                self._blocks[wanted] = self._pool.submit(self._read, wanted)
        self._blocks = {number: future for number, future in self._blocks.items() if number >= index}
        return self._blocks[index].result()

    def _read(self, index: int) -> Shaped[np.ndarray, "S W B L"]:
        steps = range(index * STEPS, (index + 1) * STEPS)
        return np.stack([self._of_walk(walk, steps) for walk in self.walks], axis=1)

    def _of_walk(self, walk: Any, steps: range) -> Shaped[np.ndarray, "S B L"]:
        places = np.arange(self._size)
        if hasattr(walk, "block"):
            # Of a single source all steps are read at once: its rows are numbered through.
            rows = walk.blocks(np.arange(steps.start * self._size, steps.stop * self._size), self._before)
            return rows.reshape(len(steps), self._size, -1).astype(self._dtype)
        return np.stack([walk.rows(step, self._size, places, self._before) for step in steps]).astype(self._dtype)

    def close(self) -> None:
        """Ends the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
