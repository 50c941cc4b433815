"""Protocols of scoring modes: rows of tokens in, log-probabilities out.

A mode makes `copies(length)` rows of every sentence (one for each masked token, or for each noise sample) and sums, in
nats, the log-probabilities of the tokens that a row scores: the tokens of the sentence alone, none of its context. A
sentence's score is the sum over its rows, 0 where no token is scored.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int

from mixlm.evaluation.reading import Predicted, Rows


@runtime_checkable
class Mode(Protocol):
    """Hashable and equal by value, so that it is static under jit.

    `kind` is that of its sums: a "likelihood" of the text, a "bound" on it, or a "pseudo" likelihood, which is none.
    """

    @property
    def kind(self) -> str:
        """The kind of its sums."""
        ...

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Rows that a sentence of each length takes."""
        ...

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Number of scored tokens of each sentence: its last ones."""
        ...

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        """Each row's contribution to its sentence's log-probability, in nats."""
        ...


@runtime_checkable
class TokenMode(Mode, Protocol):
    """A mode that knows what each row adds to every token, and that may score an answer alone, given its question.

    With `answer` the tokens after the prefix are scored, and those in it only read.
    """

    @property
    def answer(self) -> bool:
        """True where the prefix is not scored."""
        ...

    def copies(
        self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"] | None = None
    ) -> Int[np.ndarray, " N"]:
        """Rows that a sentence takes; None: no prefixes."""
        ...

    def predict(self, net: Any, rows: Rows) -> Predicted:
        """Each row's predictions, token by token; a call sums up their log-probabilities."""
        ...


def copies_of(mode: Mode, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Rows that each sentence takes in a mode, which depend on the prefixes where only answers are scored."""
    return mode.copies(lengths, prefixes) if isinstance(mode, TokenMode) else mode.copies(lengths)


@runtime_checkable
class NamedMode(Mode, Protocol):
    """A mode from outside of the package, for the macro EXTRA_MODES: it brings the name that tables and MODES use."""

    @property
    def name(self) -> str:
        """The name of its column."""
        ...


@runtime_checkable
class SampledMode(Mode, Protocol):
    """A mode whose rows of a sentence are independent noise samples, an even number; tables show their noise."""

    @property
    def samples(self) -> int:
        """The rows of every sentence that has a token."""
        ...
