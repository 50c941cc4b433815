"""Lengths to which sentences are padded: few, since each is an executable of every mode."""

from itertools import pairwise

import numpy as np
from jaxtyping import Int

BUCKET = 8  # Ours: of the lengths 4 to 16 that most test sentences have, two or three shapes.
# Ours: reading so many tokens takes a small network on one core as long as its executable takes to be compiled.
COMPILED = 2**15


def padded_lengths(lengths: Int[np.ndarray, " N"], counts: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Padded length of each sentence: 8, 16, 24, 32, 48, 64, 96 and so on.

    None is longer than the longest sentence needs. Those of a length join the next longer ones where the padding takes
    less time than another executable.
    """
    eights = np.maximum(-(-lengths // BUCKET), 1)
    power = 2 ** np.ceil(np.log2(eights)).astype(np.int64)
    padded = BUCKET * np.where(eights <= power * 3 // 4, power * 3 // 4, power)
    padded = np.minimum(padded, BUCKET * eights.max(initial=1))
    for length, longer in pairwise(np.unique(padded[counts > 0])):
        if counts[padded == length].sum() * (longer - length) < COMPILED:
            padded[padded == length] = longer
    return padded
