"""The rows of a single source in steps: shared by blocks of text and by pairs."""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Int, Int32


class OneSource(ABC):
    """A walk over one source: row r of step s is row `s * batch_size + r` of all."""

    block_length: int
    num_tokens: int

    @abstractmethod
    def block(self, index: int, before: int = 0) -> Int32[np.ndarray, " L"]:
        """The tokens of row `index`; with `before` 1 the token before it in the text is the first."""

    @abstractmethod
    def tokens_in(self, blocks: int) -> int:
        """The number of tokens in the first `blocks` rows, without padding."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """The digest of the unique set."""

    def blocks(self, indices: Int[np.ndarray, " B"], before: int = 0) -> Int32[np.ndarray, "B L"]:
        """The tokens of several rows."""
        rows = [self.block(int(index), before) for index in indices]
        return np.stack(rows) if rows else np.empty((0, before + self.block_length), np.int32)

    def rows(
        self, step: int, batch_size: int, places: Int[np.ndarray, " R"], before: int = 0
    ) -> Int32[np.ndarray, "R L"]:
        """The tokens of the rows at `places` in a step's batch of `batch_size` rows."""
        return self.blocks(step * batch_size + places, before)

    @property
    def parts(self) -> tuple["OneSource", ...]:
        """The sources: this one."""
        return (self,)

    def counts(self, steps: int, batch_size: int) -> list[int]:
        """The number of rows from each source after `steps` steps."""
        return [steps * batch_size]

    def figures(self, steps: int, batch_size: int) -> dict[str, float | int | str]:
        """Progress after `steps` steps: tokens, epochs, and the fingerprint of the unique set."""
        tokens = self.tokens_in(steps * batch_size)
        return {"tokens": tokens, "epoch": tokens / self.num_tokens, "set": self.fingerprint[:12]}
