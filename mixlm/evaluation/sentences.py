"""Sentences to score, and the rows of them that a network reads in a mode."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mixlm.evaluation.base import Mode, SampledMode, copies_of
from mixlm.evaluation.drawn import Draw


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences to score: tokens, and for each the length of its prefix, the number of its noise, and what it follows.

    `previous` is the token before each in its text, 0 (None: everywhere) where it begins one and is read after bos.
    `words` are the number of each token's word, which modes that mask the rest of a word ask for. With a `draw` rows
    of each sentence are drawn, but for a diffusion bound, whose rows are noise samples already. `twins` names the
    other sentence of a pair, -1 for none, where both have the same length, prefix and noise: rows of the two that read
    the same are read once.
    """

    tokens: Sequence[Sequence[int]]
    prefixes: Int[np.ndarray, " N"]
    noise: Int[np.ndarray, " N"]
    previous: Int[np.ndarray, " N"] | None = None
    words: Sequence[Sequence[int]] | None = None
    draw: Draw | None = None
    twins: Int[np.ndarray, " N"] | None = None

    @property
    def others(self) -> Sequence[Sequence[int]] | None:
        """The tokens of each sentence's twin, of one without its own."""
        if self.twins is None:
            return None
        return [self.tokens[number if twin < 0 else twin] for number, twin in enumerate(self.twins.tolist())]

    @property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """Tokens of each sentence."""
        return np.asarray([len(tokens) for tokens in self.tokens], np.int64)


def counts_of(mode: Mode, sentences: Sentences) -> Int[np.ndarray, " N"]:
    """Rows of each sentence that the network reads."""
    copies, draw = copies_of(mode, sentences.lengths, sentences.prefixes), draw_of(mode, sentences)
    return copies if draw is None else draw.counts(copies)


def draw_of(mode: Mode, sentences: Sentences) -> Draw | None:
    """The draw among a mode's rows; None where all are read."""
    return None if isinstance(mode, SampledMode) else sentences.draw
