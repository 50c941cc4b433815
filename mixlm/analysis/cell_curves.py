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

Curves = Mapping[int, tuple[np.ndarray, np.ndarray]]  # (x, y) by seed


def cell_curves(document: Document, cells: Cells, metrics: Sequence[str]) -> None:
    """The section: a panel for each metric and each combination of the axes that tell no lines apart."""
    shape, known = layout(cells.study), colours(cells.study)
    axes = {
        name: words for name, words in UNITS.items() if name in cells.frame.columns and cells.frame[name].notna().any()
    }
    names = dict.fromkeys(name for name in map(bare, metrics) if has_curves(cells, name))
    budgets = {axis: cells.curves(axis, "step") for axis in axes}
    panels: list[Panel] = []
    for name in names:
        curves = cells.curves(name, "step")
        drawn = [
            Panel(f"{name}{f', {panel.title}' if panel.title else ''}", "", lines)
            for panel in shape.panels
            if (
                lines := [
                    line for place in panel.places for line in _lines(place, curves[place], budgets, shape, known)
                ]
            )
        ]
        panels += drawn[:MOST_PANELS]
    if not panels:
        return
    document.add(Heading("Curves of the cells"))
    document.add(
        Text(
            "The page report.html has them, to be zoomed and toggled: each line is the mean over seeds, where all of "
            f"them have an evaluation point, each seed is faint, and a metric has at most {MOST_PANELS} panels."
        )
    )
    without = "<p>These curves need JavaScript; the figures above show the same means.</p>"
    document.add(Charts(axes, panels, without=without, scripts=(plotly_script(), charts_script())))


def _lines(
    place: Place, seeds: Curves, budgets: Mapping[str, Mapping[Place, Curves]], shape: Layout, known: Mapping[Any, Any]
) -> list[Line]:
    if not seeds:
        return []
    key, name = shape.line(place)
    words = name if shape.lines == "arm" else f"{shape.lines} {name}"
    style: dict[str, Any] = {"colour": _hex(known.get(key, INK)), "group": words}
    steps, mean, _, _ = averaged(seeds)
    spent = {axis: found[place] for axis, found in budgets.items()}
    each = seeds.items() if len(seeds) > 1 else ()
    lines = [Line(words, _places(spent, (seed,), x), y.tolist(), faint=True, **style) for seed, (x, y) in each]
    return [*lines, Line(words, _places(spent, list(seeds), steps), mean.tolist(), **style)]


def _places(spent: Mapping[str, Curves], seeds: Sequence[int], steps: np.ndarray) -> dict[str, list[float]]:
    """The steps on every axis, a mean over these seeds."""
    found = {}
    for axis, curves in spent.items():
        own = [np.interp(steps, *curves[seed]) for seed in seeds if seed in curves]
        found[axis] = np.mean(own or [steps], axis=0).tolist()
    return found


def _hex(colour: Any) -> str:
    if isinstance(colour, str):
        return INK if colour == "#000000" else colour
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])
