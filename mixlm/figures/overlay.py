"""One figure of several runs in one picture, against steps, tokens or FLOPs."""

from collections.abc import Mapping, Sequence
from typing import Any

from mixlm.analysis.style import INK, PALETTE, figure, plain, unit
from mixlm.errors import UserError, nearest
from mixlm.figures.picture import Picture
from mixlm.reports.curves import AXES, series, smooth


def overlay_picture(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: str,
    against: Sequence[str] = ("step",),
    marks: Mapping[str, int] | None = None,
) -> Picture:
    """A metric of the records of several runs, a panel for each of `against` (see `reports.curves.AXES`).

    `marks` are steps by name, drawn where the first run reaches them. Training losses are means over a fiftieth of the
    run. Raises UserError for a metric that no run has.
    """
    known = list(dict.fromkeys(name for records in runs.values() for record in records for name in record))
    if metric not in known:
        raise UserError(f"No run has a figure {metric!r}.{nearest(metric, known)}")
    for axis in against:
        if axis not in AXES:
            raise UserError(f"Curves are drawn against {', '.join(AXES)}, not {axis!r}.{nearest(axis, AXES)}")
    drawn = figure(1.8 + 4.4 * len(against), 3.9)
    grid = drawn.subplots(1, len(against), squeeze=False, sharey=True)[0]
    for axes, axis in zip(grid, against):
        for number, (name, records) in enumerate(runs.items()):
            x, y = series(records, metric, axis)
            validated = metric.startswith("validation/")
            values = y if validated else smooth(y, max(1, len(y) // 50))
            axes.plot(x, values, label=name, color=PALETTE[number % len(PALETTE)], marker="o" if validated else "")
        for name, step in (marks or {}).items():
            _mark(axes, next(iter(runs.values())), axis, step, name)
        axes.set_xlabel(AXES[axis], color=INK)
        plain(axes)
    grid[0].set_ylabel(unit(metric), color=INK)
    drawn.legend(*grid[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    return Picture.of(metric, drawn)


def _mark(axes: Any, records: Sequence[Mapping[str, Any]], axis: str, step: int, name: str) -> None:
    """A vertical line where a run has gone so many steps."""
    import numpy as np

    steps, places = series(records, axis, "step")[::-1]
    if len(steps):
        axes.axvline(np.interp(step, places, steps) if axis != "step" else step, color="#444444", linestyle="--")
        axes.annotate(name, (0.02, 0.02), xycoords="axes fraction", fontsize=9, color="#444444")
