"""Retention of checkpoints: the newest, the best by a validation metric, one every so many steps, and named ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixlm.errors import UserError
from mixlm.reports.best import Best

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Retention:
    """A checkpoint stays that is one of the `newest`, or of the `best` by `metric`, or at a multiple of `period` steps.

    `metric` is a figure of the validation; by its name alone, the lowest is best. The earlier of two equals counts. A
    checkpoint that was not validated, or whose figure is not finite, is none of the best.
    """

    newest: int = 3
    metric: str | Best | None = None
    best: int = 1
    period: int | None = None

    def __post_init__(self) -> None:
        if self.newest < 1:
            raise UserError(f"{self.newest} checkpoints cannot be kept; keep at least 1.")

    def kept(self, figures: Mapping[int, Figures]) -> set[int]:
        """The steps that are kept, of those in `figures`, which holds the validation metrics of each."""
        steps = sorted(figures)
        stay = set(steps[-self.newest :])
        stay |= {step for step in steps if self.period is not None and step % self.period == 0}
        return stay | set(self.ranked(figures)[: self.best])

    def ranked(self, figures: Mapping[int, Figures]) -> list[int]:
        """The steps that have the metric, the best first."""
        best = Best(self.metric) if isinstance(self.metric, str) else self.metric
        if best is None:
            return []
        costs = {step: best.cost(values[best.metric]) for step, values in figures.items() if best.metric in values}
        return sorted((step for step in costs if math.isfinite(costs[step])), key=lambda step: (costs[step], step))


class Policy:
    """A Retention as Orbax's protocol PreservationPolicy; a checkpoint that has a name stays, too.

    `figures_of(step)` returns a step's metrics, `names_of(step)` its names.
    """

    def __init__(
        self,
        retention: Retention,
        figures_of: Callable[[int], Figures],
        names_of: Callable[[int], Sequence[str]] = lambda _: (),
    ):
        self._retention, self._figures_of, self._names_of = retention, figures_of, names_of

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One answer for each of Orbax's records of a checkpoint."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self._retention.kept({step: self._figures_of(step) for step in steps})
        return [step in kept or bool(self._names_of(step)) for step in steps]
