"""Some of the rows that a mode makes of each sentence, drawn in place of all: unbiased sums, and their noise."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from mixlm.errors import UserError


@dataclass(frozen=True)
class Draw:
    """At most `rows` of the C rows that a mode makes of a sentence, one from each of as many equal strata.

    Row `floor((k + u_k) C / n)` for k < n = `rows`, with u_k uniform over [0, 1): each is drawn n / C times on average
    and stands for C / n rows, so that the sum is unbiased. A sentence of no more than n rows is read whole. The u_k are
    a function of the seed and the sentence's number, the same for every mode, so that modes compare on the same tokens.
    """

    rows: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 2 or self.rows % 2:
            raise UserError(f"SCORED_POSITIONS is an even number above 0, or None for every one, not {self.rows}.")

    def counts(self, copies: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """The rows of each sentence that are read."""
        return np.minimum(copies, self.rows)

    def numbers(self, copies: Int[np.ndarray, " N"]) -> Int[np.ndarray, " R"]:
        """The number of each row among its sentence's, in the order of sentences."""
        stratum = np.arange(self.rows)
        uniform = np.random.default_rng(self.seed).random((len(copies), self.rows))
        drawn = ((stratum + uniform) * copies[:, None] / self.rows).astype(np.int64)
        drawn = np.minimum(drawn, copies[:, None] - 1)  # (k + u) may round up to k + 1
        numbers = np.where(copies[:, None] > self.rows, drawn, stratum)
        return numbers[stratum < self.counts(copies)[:, None]]

    def samples(self, values: Float64[np.ndarray, " R"], copies: Int[np.ndarray, " N"]) -> Float64[np.ndarray, "N S"]:
        """An estimate of each sentence's sum from each of its rows; from what is read whole, the sum itself."""
        counts = self.counts(copies)
        found = np.zeros((len(copies), self.rows))
        found[np.arange(self.rows) < counts[:, None]] = values
        whole = found.sum(axis=1, keepdims=True)
        return np.where(copies[:, None] > self.rows, found * copies[:, None], whole)


def every(copies: Int[np.ndarray, " N"]) -> Int[np.ndarray, " R"]:
    """The number of each row among its sentence's, where all are read."""
    return np.arange(int(copies.sum())) - np.repeat(np.cumsum(copies) - copies, copies)
