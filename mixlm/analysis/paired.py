"""Paired differences between two places of a study, seed by seed, with Holm's correction over a family of tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mixlm.analysis.intervals import Interval, interval

LEVEL = 0.05
# The verdicts of a difference, from the point of view of a metric's goal.
BETTER, WORSE, UNCLEAR, UNDECIDED = "better", "worse", "not shown", "undecided"


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, its interval, the two-sided p of Student's paired t, and p after Holm."""

    interval: Interval
    p: float
    adjusted: float = float("nan")

    def verdict(self, goal: str) -> str:
        """The word for a difference: "better", "worse", "not shown" (adjusted p of 0.05 or more), or "undecided".

        A single pair decides nothing.
        """
        if self.interval.n < 2:
            return UNDECIDED
        if not self.adjusted < LEVEL:
            return UNCLEAR
        return BETTER if (self.interval.mean < 0) == (goal == "min") else WORSE


def differences(here: Mapping[int, float], there: Mapping[int, float]) -> list[float]:
    """`here` less `there` for each seed that both have."""
    return [here[seed] - there[seed] for seed in sorted(here) if seed in there]


def paired(found: Sequence[float]) -> Difference:
    """The test of one list of differences against zero; p is NaN with fewer than two of them."""
    from scipy.special import stdtr

    spread = interval(found)
    n = len(found)
    if n < 2:
        return Difference(spread, float("nan"))
    error = float(np.std(np.sort(found), ddof=1)) / np.sqrt(n)
    if error == 0:
        return Difference(spread, 1.0 if spread.mean == 0 else 0.0)
    return Difference(spread, float(2 * stdtr(n - 1, -abs(spread.mean) / error)))


def holm(found: Sequence[Difference]) -> list[Difference]:
    """The differences with p adjusted: in rising order, the largest (m - i) p_i so far, at most 1.

    S. Holm (1979): the chance of any false finding in the family stays at the level. What has no p is no test.
    """
    order = sorted((each.p, index) for index, each in enumerate(found) if each.p == each.p)
    adjusted, highest = {}, 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = highest
    return [Difference(each.interval, each.p, adjusted.get(index, float("nan"))) for index, each in enumerate(found)]
