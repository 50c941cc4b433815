"""Curves of several runs in one picture: a line for each run, its switches of stages marked on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixlm.reports.curves import AXES, SMOOTHING, figure_class, series, smooth
from mixlm.reports.panels import PALETTE, spoken

Records = Sequence[Mapping[str, Any]]
DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.2)), (0, (1, 1.2)))  # past the palette's end, the dash tells apart


def comparison_figure(
    runs: Mapping[str, Records],
    metrics: Sequence[str],
    against: Sequence[str] = ("step",),
    switches: Mapping[str, Sequence[int]] | None = None,
    title: str = "",
) -> Any:
    """A matplotlib Figure with a row of panels for each metric and a column for each of `against` (`curves.AXES`).

    `runs` are records by name; a run has one colour in all panels. `switches` are the steps before which its stages
    begin: a diamond on its line. Curves of training are means over a fiftieth of the run; values that are not finite
    are left out, and a run without a metric has no line there.
    """
    from matplotlib.ticker import EngFormatter

    # The legend takes two and a half inches on the right.
    size = (2.5 + 5.0 * len(against), 0.6 + 3.2 * len(metrics))
    drawn = figure_class()(figsize=size, dpi=100, layout="constrained")
    grid = drawn.subplots(len(metrics), len(against), sharex="col", sharey="row", squeeze=False)
    styles = {
        name: {"color": PALETTE[number % len(PALETTE)], "linestyle": DASHES[number // len(PALETTE) % len(DASHES)]}
        for number, name in enumerate(runs)
    }
    for row, metric in zip(grid, metrics):
        for axes, axis in zip(row, against):
            for name, records in runs.items():
                _draw(axes, records, metric, axis, styles[name], name, (switches or {}).get(name, ()))
            axes.grid(True, color="#DDDDDD", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(_label(metric))
    for axes, axis in zip(grid[-1], against):
        axes.set_xlabel(AXES[axis])
        if axis in ("flops", "tokens"):
            axes.xaxis.set_major_formatter(EngFormatter())
    _legend(drawn, grid, any((switches or {}).values()))
    if title:
        drawn.suptitle(title, fontsize=12)
    return drawn


def _draw(
    axes: Any, records: Records, metric: str, against: str, style: Mapping[str, Any], name: str, switches: Sequence[int]
) -> None:
    x, y = series(records, metric, against)
    if not len(x):
        return
    if metric.startswith("train/"):
        y = smooth(y, max(1, round(len(y) * SMOOTHING)))
    marker = {"marker": "o", "markersize": 3.5} if len(x) <= 40 else {}
    axes.plot(x, y, label=name, linewidth=1.6, **marker, **style)
    steps, places = series(records, against, "step")
    for step in switches:
        if len(steps) and steps[0] <= step <= steps[-1]:
            place = float(np.interp(step, steps, places))
            height = float(np.interp(place, x, y))
            axes.axvline(place, color=style["color"], linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
            axes.plot([place], [height], "D", color=style["color"], markersize=7, markeredgecolor="white", zorder=5)


def _label(metric: str) -> str:
    part, _, rest = metric.partition("/")
    return f"{spoken(rest)}\n({part})" if part in ("train", "validation") else spoken(metric)


def _legend(drawn: Any, grid: Any, switched: bool) -> None:
    from matplotlib.lines import Line2D

    handles: dict[str, Any] = {}
    for axes in grid.flat:
        handles |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels()) if name not in handles}
    if switched:
        handles["switch of objective"] = Line2D([], [], color="#444444", marker="D", linestyle="none")
    drawn.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=9)
