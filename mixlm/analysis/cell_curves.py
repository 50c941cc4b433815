"""The curves of a study's cells, to be zoomed and toggled: means over seeds, and each seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixlm.analysis.cells import Cells
from mixlm.analysis.charts import INK, Charts, Line, Panel, charts_script, plotly_script
from mixlm.analysis.document import Document, Heading, Text
from mixlm.analysis.layout import MOST_PANELS, Layout, averaged, layout
from mixlm.analysis.study import Place, bare
from mixlm.analysis.style import UNITS, colours
from mixlm.analysis.training_curves import has_curves


def cell_curves(document: Document, cells: Cells, metrics: Sequence[str]) -> None:
    """The section: a panel for each metric and each combination of the axes that tell no lines apart."""
    shape, known = layout(cells.study), colours(cells.study)
    axes = {
        name: words for name, words in UNITS.items() if name in cells.frame.columns and cells.frame[name].notna().any()
    }
    names = dict.fromkeys(name for name in map(bare, metrics) if has_curves(cells, name))
    panels = [
        Panel(f"{name}{f', {panel.title}' if panel.title else ''}", "", lines)
        for name in names
        for panel in shape.panels[:MOST_PANELS]
        if (lines := [line for place in panel.places for line in _lines(cells, name, place, shape, known, axes)])
    ]
    if not panels:
        return
    document.add(Heading("Curves of all cells"))
    document.add(
        Text(
            "In report.html the curves can be zoomed and toggled: each line is the mean over seeds, where all of them "
            "have an evaluation point, and each seed is faint."
        )
    )
    without = "<p>Without scripts, the pictures above are all that there is of them.</p>"
    document.add(Charts(axes, panels, without=without, scripts=(plotly_script(), charts_script())))


def _lines(
    cells: Cells, metric: str, place: Place, shape: Layout, known: Mapping[Any, Any], axes: Mapping[str, str]
) -> list[Line]:
    seeds = cells.curves(metric, "step")[place]
    if not seeds:
        return []
    key, name = shape.line(place)
    words = name if shape.lines == "arm" else f"{shape.lines} {name}"
    style: dict[str, Any] = {"colour": _hex(known.get(key, INK)), "group": words}
    steps, mean, _, _ = averaged(seeds)
    each = seeds.values() if len(seeds) > 1 else ()
    found = [Line(words, _places(cells, place, x, axes), y.tolist(), faint=True, **style) for x, y in each]
    return [*found, Line(words, _places(cells, place, steps, axes), mean.tolist(), **style)]


def _places(cells: Cells, place: Place, steps: np.ndarray, axes: Mapping[str, str]) -> dict[str, list[float]]:
    """The steps on every axis: seeds of a place read and compute the same, so any of them tells."""
    found = {}
    for axis in axes:
        x, values = next(iter(cells.curves(axis, "step")[place].values()), (steps, steps))
        found[axis] = np.interp(steps, x, values).tolist()
    return found


def _hex(colour: Any) -> str:
    if isinstance(colour, str):
        return INK if colour == "#000000" else colour
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])
