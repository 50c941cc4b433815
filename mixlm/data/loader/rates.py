"""Mixing rates: exact row counts of each source for any real rates, and any row's source in constant time."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from mixlm.errors import UserError


@dataclass(frozen=True)
class Shares:
    """An endless sequence of rows, shared out among sources in proportion to `weights` (whole numbers).

    The sources are halved, and n rows give floor(n w + 1/2) to the first half, where w is its share, and the rest to
    the other; each half shares its rows out likewise. A count never falls as n grows, is exact where all n w are whole
    numbers, and is off n times the source's share by at most ceil(log2(sources)) / 2 rows.
    """

    weights: tuple[int, ...]

    def at(self, row: int) -> tuple[int, int]:
        """The source of a row (numbered from 0), and how many rows that source had before."""
        low, high = 0, len(self.weights)
        while high - low > 1:
            middle = (low + high) // 2
            before, after = (self._first_half(low, middle, high, rows) for rows in (row, row + 1))
            low, high, row = (low, middle, before) if after > before else (middle, high, row - before)
        return low, row

    def counts(self, rows: int) -> list[int]:
        """The number of rows from each source among the first `rows`."""
        return self._counts(0, len(self.weights), rows)

    def _counts(self, low: int, high: int, rows: int) -> list[int]:
        if high - low == 1:
            return [rows]
        middle = (low + high) // 2
        first = self._first_half(low, middle, high, rows)
        return self._counts(low, middle, first) + self._counts(middle, high, rows - first)

    def _first_half(self, low: int, middle: int, high: int, rows: int) -> int:
        part, whole = self._sums[middle] - self._sums[low], self._sums[high] - self._sums[low]
        # Sources that nobody draws from have no rows to share out.
        return (2 * rows * part + whole) // (2 * whole) if whole else 0

    @cached_property
    def _sums(self) -> tuple[int, ...]:
        return (0, *itertools.accumulate(self.weights))


@dataclass(frozen=True)
class Rates:
    """Shares that may change: `shares[i]` hold from step `starts[i]` on, each from a count of its own."""

    shares: tuple[Shares, ...]
    starts: tuple[int, ...] = (0,)

    def stage(self, step: int) -> int:
        """The index of the shares in force at a step."""
        return sum(start <= step for start in self.starts) - 1

    def counts(self, steps: int, batch_size: int) -> list[int]:
        """The number of rows from each source after `steps` steps."""
        ends = [*self.starts[1 : self.stage(steps) + 1], steps]
        spans = [end - start for start, end in zip(self.starts, ends)]
        counts = [shares.counts(span * batch_size) for shares, span in zip(self.shares, spans)]
        return [sum(column) for column in zip(*counts)]


def shares_of(rates: Sequence[float]) -> Shares:
    """The shares that decimal numbers name, such as 0.7 and 0.3 (exactly 7 to 3); UserError unless some are above 0."""
    usable = all(isinstance(rate, int | float) and not isinstance(rate, bool) and math.isfinite(rate) for rate in rates)
    if not usable or min(rates, default=0) < 0 or sum(rates) <= 0:
        raise UserError(f"RATES = {tuple(rates)} must be numbers of at least 0, and not all of them 0.")
    # What a person writes as 0.1 is a tenth, not the float next to it.
    exact = [Fraction(str(rate)) for rate in rates]
    scale = math.lcm(*(rate.denominator for rate in exact))
    return Shares(tuple(int(rate * scale) for rate in exact))
