"""The best value of an axis with its interval, for each value of the other axes, from a Gaussian process."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mixlm.analysis.cells import Cells
from mixlm.analysis.gaussian_process import Posterior, fit
from mixlm.analysis.scales import Scale, is_figure, scale_of
from mixlm.analysis.study import Place

# Ours: fewer values leave no shape to fit; and the points along the axis at which drawn surfaces are compared.
FEWEST_VALUES = 4
POINTS, MOST_POINTS = 101, 1200
DRAWS = 2400


@dataclass(frozen=True)
class Optimum:
    """The posterior of where along `axis` a metric is best; `others` are the values of the other axes, one a row.

    `fixed` says which arm and which values of axes that are no numbers this is about. `bests` are indices into `grid`,
    the coordinates along the axis, of the best point of each drawn surface at each of `others`.
    """

    metric: str
    goal: str
    axis: str
    along: tuple[str, ...]
    fixed: Place
    scales: Mapping[str, Scale]
    grid: Float[np.ndarray, " G"]
    others: list[tuple[float, ...]]
    bests: Int[np.ndarray, "S M"]
    posterior: Posterior
    groups: Float[np.ndarray, " N"]
    values: Float[np.ndarray, " N"]

    @cached_property
    def spans(self) -> list[tuple[float, float, float]]:
        """(median, low, high) of the best value of the axis at each of `others`, low and high its 95% interval.

        The interval reaches to the middle between grid points, except at the ends of the axis.
        """
        half = (self.grid[1] - self.grid[0]) / 2
        found = []
        for column in self.bests.T:
            low, middle, high = np.quantile(self.grid[column], (0.025, 0.5, 0.975), method="inverted_cdf")
            edges = np.clip([middle, low - half, high + half], self.grid[0], self.grid[-1])
            median, low, high = self.scales[self.axis].backward(edges)
            found.append((float(median), float(low), float(high)))
        return found

    @cached_property
    def densities(self) -> Float[np.ndarray, "M G"]:
        """The share of drawn surfaces whose best point is each grid point, at each of `others`."""
        counts = np.stack([np.bincount(column, minlength=len(self.grid)) for column in self.bests.T])
        return counts / len(self.bests)

    @cached_property
    def left_out(self) -> tuple[float, float]:
        """(root mean squared error, R2) of predictions of each grid point's values from the other grid points."""
        errors = self.values - self.posterior.left_out(self.groups)
        return float(np.sqrt((errors**2).mean())), 1 - float((errors**2).sum() / _spread(self.values))

    @cached_property
    def r2(self) -> float:
        """The share of the values' variance that the surface explains, as the Dual paper states it."""
        mean, _ = self.posterior.predict(self.posterior.inputs * self.posterior.span + self.posterior.low)
        return 1 - float(((self.values - mean) ** 2).sum() / _spread(self.values))

    def places(self, others: Sequence[tuple[float, ...]]) -> Float[np.ndarray, "M D"]:
        """Inputs of the regression: every grid point at each of `others`."""
        return _places(self.grid, others, self.along, self.scales)


def _spread(values: np.ndarray) -> float:
    return float(((values - values.mean()) ** 2).sum()) or 1.0


def _places(
    grid: np.ndarray, others: Sequence[tuple[float, ...]], along: Sequence[str], scales: Mapping[str, Scale]
) -> np.ndarray:
    rows = [[u, *(float(scales[name].forward(v)) for name, v in zip(along, other))] for other in others for u in grid]
    return np.array(rows, np.float64).reshape(len(rows), 1 + len(along))


def has_optimum(cells: Cells, axis: str) -> bool:
    """True for an axis of numbers with values enough for a regression."""
    values = cells.study.axes[axis]
    return len(values) >= FEWEST_VALUES and all(map(is_figure, values))


def optima(cells: Cells, metric: str, axis: str) -> list[Optimum]:
    """The best place along an axis for each arm and each combination of axes that are no numbers.

    Every run is a value of its own, so that the noise is that of seeds. An arm with fewer than four values of the axis
    has no optimum.
    """
    if (metric, axis) not in cells.memo:
        cells.memo[metric, axis] = _optima(cells, metric, axis)
    return cells.memo[metric, axis]


def _optima(cells: Cells, metric: str, axis: str) -> list[Optimum]:
    study, values = cells.study, cells.values(metric)
    numeric = [name for name, known in study.axes.items() if all(map(is_figure, known)) and len(known) > 1]
    along = tuple(name for name in numeric if name != axis)
    groups: dict[Place, list[Place]] = {}
    for place in study.places:
        if values[place] and all(name in place.values for name in (axis, *along)):
            fixed = Place(place.arm, tuple((name, value) for name, value in place.axes if name not in numeric))
            groups.setdefault(fixed, []).append(place)
    found = []
    for fixed, places in groups.items():
        if len({place.values[axis] for place in places}) >= FEWEST_VALUES:
            found.append(_optimum(cells, metric, axis, along, fixed, {place: values[place] for place in places}))
    return found


def _optimum(
    cells: Cells,
    metric: str,
    axis: str,
    along: tuple[str, ...],
    fixed: Place,
    values: Mapping[Place, Mapping[int, float]],
) -> Optimum:
    scales = {name: scale_of(cells.study.axes[name]) for name in (axis, *along)}
    # Ours: an axis with one value in this group tells nothing, and is left out of the regression.
    along = tuple(name for name in along if len({place.values[name] for place in values}) > 1)
    inputs, outputs, groups = [], [], []
    for number, (place, seeds) in enumerate(values.items()):
        for seed in sorted(seeds):
            inputs.append([float(scales[name].forward(place.values[name])) for name in (axis, *along)])
            outputs.append(seeds[seed])
            groups.append(float(number))
    goal, y = cells.study.goal(metric), np.array(outputs)
    posterior = fit(np.array(inputs), y)
    others = list(itertools.product(*(_numbers(name, values) for name in along)))
    points = max(21, min(POINTS, MOST_POINTS // len(others)))
    ends = [scales[axis].forward(value) for value in _numbers(axis, values)]
    grid = np.linspace(min(ends), max(ends), points)
    drawn = posterior.draw(_places(grid, others, along, scales), DRAWS).reshape(-1, len(others), points)
    bests = drawn.argmin(2) if goal == "min" else drawn.argmax(2)
    return Optimum(metric, goal, axis, along, fixed, scales, grid, others, bests, posterior, np.array(groups), y)


def _numbers(axis: str, places: Mapping[Place, Any]) -> list[float]:
    return sorted({float(place.values[axis]) for place in places})
