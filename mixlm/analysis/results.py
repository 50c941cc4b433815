"""The results of a study as values: its table, its figures and its optima, each by one call."""

import html
from dataclasses import dataclass
from typing import Any

from mixlm.analysis.axis_curves import arms_figure, axis_figure
from mixlm.analysis.cells import Cells
from mixlm.analysis.claim_rules import RULES
from mixlm.analysis.claims import judge
from mixlm.analysis.decodings import decodings_figure
from mixlm.analysis.intervals import interval
from mixlm.analysis.optimum import FEWEST_VALUES, Optimum, has_optimum, optima
from mixlm.analysis.study import Place
from mixlm.analysis.style import Png
from mixlm.analysis.surfaces import optimum_figure
from mixlm.analysis.training_curves import budget_figure, overfitting_figure
from mixlm.analysis.words import number
from mixlm.errors import UserError, nearest
from mixlm.reports.table import Table


@dataclass(frozen=True)
class Best:
    """The best place along an axis: a table, what it rests on, and a figure.

    `table` has a row for each value of the other axes: the median, and `low` and `high`, its 95% interval, None where
    there are too few values of the axis for one.
    """

    table: Table
    note: str
    figure: Png

    def __str__(self) -> str:
        return f"{self.table}\n{self.note}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        import base64

        data = base64.b64encode(self.figure).decode()
        picture = f'<img alt="best place" style="max-width:100%" src="data:image/png;base64,{data}"/>'
        return f"{self.table._repr_html_()}<p>{html.escape(self.note)}</p>{picture}"


class Results:
    """A study's table with what is drawn and computed from it.

    Example: `results("spactor").curves("validation/span_corruption")`.
    """

    def __init__(self, cells: Cells) -> None:
        self.cells = cells

    @property
    def frame(self) -> Any:
        """The rows of cells.csv as a pandas DataFrame."""
        return self.cells.frame

    @property
    def verdicts(self) -> Table:
        """A row for each claim: what it says, the verdict by a rule written before the runs, and the figures."""
        found = judge(self.cells, RULES)
        return Table([{"claim": each.claim, "verdict": each.verdict, "figures": each.figures} for each in found])

    def curves(self, metric: str) -> Png:
        """A metric against FLOPs, tokens and steps: means over seeds, with their 95% intervals as bands."""
        self.cells.check(metric)
        return budget_figure(self.cells, metric)

    def epochs(self, metric: str) -> Png:
        """Validation beside training against epochs."""
        self.cells.check(metric)
        return overfitting_figure(self.cells, metric)

    def final(self, metric: str, axis: str | None = None) -> Png:
        """A metric at the end of runs, against an axis, or without one a row for each place with its seeds."""
        self.cells.values(metric)
        return arms_figure(self.cells, metric) if axis is None else axis_figure(self.cells, metric, self._axis(axis))

    def table(self, metric: str) -> Table:
        """A metric at the end of runs: a row for each place, with mean, 95% interval over seeds, and their number."""
        rows = []
        for place, seeds in self.cells.values(metric).items():
            if seeds:
                found = interval(list(seeds.values()))
                known = {"low": found.low, "high": found.high} if found.known else {"low": None, "high": None}
                arm = {"arm": place.arm} if place.arm else {}
                rows.append({**arm, **place.values, "mean": found.mean, **known, "n": found.n})
        return Table(rows)

    def best(self, metric: str, axis: str) -> Best:
        """The best value of an axis, by the regression of the report (`analysis.optimum`).

        With fewer than four values of the axis there is no regression: the best measured cell is given, and no
        interval.
        """
        values = self.cells.values(metric)
        axis = self._axis(axis)
        if not any(values.values()):
            raise UserError(f"No cell of {self.cells.study.name} has a value of {metric}.")
        found = optima(self.cells, metric, axis) if has_optimum(self.cells, axis) else []
        return _regressed(self.cells, found[0]) if found else _measured(self.cells, metric, axis)

    def decodings(self, evaluation: str = "exact") -> Png:
        """The share of exact answers against network calls, by decoding, as `evaluation` of the study found it."""
        return decodings_figure(self.cells, evaluation)

    def __repr__(self) -> str:
        done, study = len(self.cells.by_cell), self.cells.study
        axes = ", ".join(f"{name} {len(values)}" for name, values in study.axes.items())
        return f"Results of {study.name}: {done} of {len(study.cells)} cells, {axes}, {len(study.seeds)} seeds"

    def _axis(self, axis: str) -> str:
        known = self.cells.study.axes
        if axis not in known:
            raise UserError(f"{self.cells.study.name} has no axis {axis!r}.{nearest(axis, known)}")
        return axis


def _regressed(cells: Cells, found: Optimum) -> Best:
    rows = [
        {**dict(zip(found.along, other)), f"best {found.axis}": middle, "low": low, "high": high}
        for other, (middle, low, high) in zip(found.others, found.spans)
    ]
    error, held_out = found.left_out
    note = (
        f"Median and 95% interval of {len(found.bests):,} surfaces drawn from a Gaussian process over "
        f"{len(found.values)} runs of {found.metric}; each grid point predicted from the others: "
        f"error {number(error)}, R2 {held_out:.2f}."
    )
    if len(cells.study.seeds) == 1:
        note += " One seed: what is noise and what is shape, smoothness alone tells."
    return Best(Table(rows), note, optimum_figure(cells.study, found))


def _measured(cells: Cells, metric: str, axis: str) -> Best:
    """The best measured cell for each value of the other axes."""
    pick = min if cells.study.goal(metric) == "min" else max
    groups: dict[Place, list[tuple[float, Any]]] = {}
    for place, seeds in cells.values(metric).items():
        if seeds and axis in place.values:
            rest = Place(place.arm, tuple((name, value) for name, value in place.axes if name != axis))
            groups.setdefault(rest, []).append((sum(seeds.values()) / len(seeds), place.values[axis]))
    rows = []
    for rest, found in groups.items():
        mean, value = pick(found, key=lambda each: each[0])
        rows.append({**rest.values, f"best {axis}": value, "low": None, "high": None, metric: mean})
    note = (
        f"The best of {len(cells.study.axes[axis])} measured values of {axis}, without an interval: a regression needs "
        f"{FEWEST_VALUES} or more that are numbers."
    )
    return Best(Table(rows), note, axis_figure(cells, metric, axis))
