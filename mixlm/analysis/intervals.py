"""95% intervals of means over seeds: Student's t for few, the percentile bootstrap for many."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
# Ours: from 20 seeds on the percentile bootstrap covers as often as it says, and needs no normal distribution.
BOOTSTRAP_FROM = 20
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with the 95% interval around it, the number of values, and how the interval was found."""

    mean: float
    low: float
    high: float
    n: int
    how: str

    @property
    def known(self) -> bool:
        """True where there is an interval."""
        return self.n > 1


def interval(values: Sequence[float]) -> Interval:
    """The mean of values and its interval, which do not depend on the order of the values."""
    x = np.sort(np.asarray(values, np.float64))
    n = len(x)
    if n < 2:
        nan = float("nan")
        return Interval(float(x[0]) if n else nan, nan, nan, n, "none")
    mean = float(x.mean())
    if n >= BOOTSTRAP_FROM:
        drawn = np.random.default_rng(0).choice(x, (RESAMPLES, n)).mean(1)
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(mean, float(low), float(high), n, "bootstrap")
    half = float(x.std(ddof=1)) / np.sqrt(n) * quantile(n - 1)
    return Interval(mean, mean - half, mean + half, n, "t")


def quantile(freedom: int, level: float = LEVEL) -> float:
    """The two-sided quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))
