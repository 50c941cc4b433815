"""Figures of a metric against an axis, with a line for each value of another, and of arms side by side."""

from collections.abc import Mapping
from typing import Any

from mixlm.analysis.cells import Cells
from mixlm.analysis.intervals import interval
from mixlm.analysis.layout import MOST_PANELS, Layout, Panel, layout
from mixlm.analysis.study import Place, key
from mixlm.analysis.style import Png, colours, coordinate, figure, named_ticks, plain, png, unit

Values = Mapping[Place, Mapping[int, float]]


def axis_figure(cells: Cells, metric: str, axis: str) -> Png:
    """A panel for each combination of further axes: mean over seeds with its interval against an axis."""
    study, values = cells.study, cells.values(metric)
    shape = layout(study, over=axis)
    panels = [panel for panel in shape.panels if any(values[place] for place in panel.places)][:MOST_PANELS]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // max(columns, 1))
    # Ours: panels wide enough for their ticks; the legend takes one and a half inches.
    drawn = figure(1.6 + (5.2 if columns == 1 else 3.9) * columns, 0.5 + 3.5 * rows)
    grid = drawn.subplots(rows, columns, sharey=True, squeeze=False)
    for spare in grid.flat[len(panels) :]:
        spare.set_visible(False)
    for axes, panel in zip(grid.flat, panels):
        _draw(axes, cells, values, panel, shape, axis)
    drawn.supylabel(unit(metric), fontsize=10, multialignment="center")
    _legend(drawn, grid, shape)
    return png(drawn)


def _draw(axes: Any, cells: Cells, values: Values, panel: Panel, shape: Layout, axis: str) -> None:
    study = cells.study
    scale, places_of = coordinate(study, axis)
    lines: dict[Any, list[Place]] = {}
    for place in panel.places:
        if axis in place.values and values[place] and key(place.values[axis]) in places_of:
            lines.setdefault(shape.line(place), []).append(place)
    known = colours(study)
    for number, ((colour, name), places) in enumerate(lines.items()):
        places = sorted(places, key=lambda place: places_of[key(place.values[axis])])
        # Neighbouring lines' bars stand side by side.
        shift = 0.012 * (number - (len(lines) - 1) / 2) * _width(places_of)
        x = [places_of[key(place.values[axis])] + shift for place in places]
        found = [interval(list(values[place].values())) for place in places]
        mean = [each.mean for each in found]
        bars = [[each.mean - each.low if each.known else 0.0 for each in found],
                [each.high - each.mean if each.known else 0.0 for each in found]]  # fmt: skip
        style = {"color": known.get(colour, "#333333"), "marker": "o", "markersize": 4.5, "linewidth": 1.6}
        style["linestyle"] = "none" if scale.kind == "names" else "solid"
        axes.errorbar(x, mean, bars, label=name, elinewidth=1.1, capsize=2.5, **style)
    named_ticks(axes, "x", study.axes[axis], scale)
    axes.set_xlabel(axis)
    axes.set_title(panel.title, fontsize=10)
    plain(axes)


def _width(places: Mapping[str, float]) -> float:
    return (max(places.values()) - min(places.values())) or 1.0


def arms_figure(cells: Cells, metric: str) -> Png:
    """A row for each place: its seeds as dots, their mean and interval."""
    values = {place: seeds for place, seeds in cells.values(metric).items() if seeds}
    known, shape = colours(cells.study), layout(cells.study)
    drawn = figure(8.0, 0.9 + 0.42 * len(values))
    axes = drawn.subplots()
    for row, (place, seeds) in enumerate(values.items()):
        colour = known.get(shape.line(place)[0], "#333333")
        found = interval(list(seeds.values()))
        axes.scatter(list(seeds.values()), [row] * len(seeds), s=18, color=colour, alpha=0.4, linewidth=0)
        bars = [[found.mean - found.low], [found.high - found.mean]] if found.known else None
        axes.errorbar([found.mean], [row], xerr=bars, fmt="o", color=colour, markersize=6, capsize=3, linewidth=1.6)
    axes.set_yticks(range(len(values)), [place.label for place in values])
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlabel(unit(metric))
    plain(axes)
    return png(drawn)


def _legend(drawn: Any, grid: Any, shape: Layout) -> None:
    """One legend beside all panels, with every line that any of them has."""
    handles = {name: handle for axes in grid.flat for handle, name in zip(*axes.get_legend_handles_labels())}
    if len(handles) > 1 or shape.lines != "arm":
        title = None if shape.lines == "arm" else shape.lines
        drawn.legend(handles.values(), handles, title=title, loc="outside right upper", frameon=False, fontsize=9)
