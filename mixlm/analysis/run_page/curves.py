"""The curves of a run as panels: every term in training and validation, and how the run went."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixlm.analysis.charts import INK, Charts, Level, Line, Mark, Panel, charts_script, plotly_script
from mixlm.analysis.run_page.record import Record
from mixlm.reports.curves import AXES, SMOOTHING, series, smooth
from mixlm.reports.panels import (
    ACCURACY,
    LABELS,
    PALETTE,
    SHARE,
    TERMS,
    TOTAL,
    YARDSTICKS,
    levels,
    owner_of,
    panels,
    spoken,
    styles,
)
from mixlm.reports.panels import name_of as bare

POINTS = 600  # Ours: of a line, whose 800 pixels show no more; a page of 100 lines stays below 3 MB.
# The title and the unit of each panel of `reports.panels`.
TITLES = {
    TERMS: ("Loss by term", TERMS),
    LABELS: ("Detection", LABELS),
    TOTAL: ("Weighted loss", "the sum that is trained on"),
    ACCURACY: ("Accuracy", "share of the likeliest tokens that are right"),
    SHARE: ("Shares", ""),
}
# How a run went: figures of each line beside its losses.
WENT = {
    "learning_rate": ("Learning rate", ""),
    "grad_norm": ("Gradient norm", "before clipping"),
    "tokens_per_second": ("Speed", "tokens per second"),
    "mfu": ("Model-FLOPs utilisation", "share of the devices' peak"),
}


def charts(record: Record) -> Charts:
    """All panels of a run, over steps, FLOPs, tokens or epochs, as far as its lines have them."""
    records = record.metrics
    axes = {name: words for name, words in AXES.items() if any(name in line for line in records)}
    found = panels(records)
    styled = styles(found)
    cuts = [float(step) for step, _ in record.switches]
    # The terms first, and the weighted sum of them after.
    order = sorted(found, key=lambda label: label == TOTAL)
    drawn = [_panel(records, label, found[label], styled, axes, cuts) for label in order]
    drawn += [_went(records, name, axes) for name in WENT if any(name in line for line in records)]
    return Charts(
        axes,
        drawn,
        _marks(record, axes),
        without=_picture(record.picture),
        scripts=(plotly_script(), charts_script()),
    )


def _panel(
    records: Sequence[Mapping[str, Any]],
    label: str,
    keys: Sequence[str],
    styled: Mapping[str, Mapping[str, Any]],
    axes: Mapping[str, str],
    cuts: Sequence[float],
) -> Panel:
    colours = {key: INK if key == TOTAL else styled[key]["color"] for key in keys}
    lines: list[Line] = []
    for key in keys:
        validation = key.startswith("validation/")
        words = f"{spoken(bare(key))} (validation)" if validation else spoken(bare(key))
        style = {"colour": colours[key], "group": words, "dash": "dash" if validation else _dash(styled[key])}
        lines += _lines(records, key, words, style, axes, cuts, smoothed=not validation)
    values = np.concatenate([np.asarray(line.y) for line in lines]) if lines else np.zeros(0)
    height = float(np.nanmax(values) - np.nanmin(values)) if np.isfinite(values).any() else 1.0
    found = levels(records, label, height)
    owners = {owner_of(key): colour for key, colour in colours.items()}
    beside = [_level(kind, value, terms, owners) for kind, value, terms in found]
    low, high = _range([line for line in lines if not line.faint], [level.value for level in beside])
    title, unit = TITLES.get(label, (label, ""))
    return Panel(title, unit, lines, beside, low, high)


def _level(kind: str, value: float, terms: Sequence[str], owners: Mapping[str, str]) -> Level:
    words, dash = YARDSTICKS[kind][1], "dashdot" if kind == "bigram" else "dot"
    if len(terms) == 1:
        return Level(f"{spoken(terms[0])}: {words}", value, owners.get(terms[0], INK), dash)
    return Level(words, value, dash=dash)


def _dash(style: Mapping[str, Any]) -> str:
    return "solid" if style["linestyle"] == "solid" else "dot"


def _went(records: Sequence[Mapping[str, Any]], name: str, axes: Mapping[str, str]) -> Panel:
    title, unit = WENT[name]
    lines = _lines(records, name, title, {"colour": PALETTE[0]}, axes, [], smoothed=False)
    return Panel(title, unit, lines)


def _lines(
    records: Sequence[Mapping[str, Any]],
    key: str,
    words: str,
    style: Mapping[str, Any],
    axes: Mapping[str, str],
    cuts: Sequence[float],
    smoothed: bool,
) -> list[Line]:
    """A figure as it is, or its mean over a fiftieth of the run within a stage, with the figure itself behind it."""
    held = [line for line in records if isinstance(line.get(key), int | float)]
    steps, values = series(held, key, "step")
    if not len(steps):
        return []
    x = {axis: np.array([line.get(axis, np.nan) for line in held], float) for axis in axes}
    kept = np.isfinite([float(line[key]) for line in held])
    x = {axis: places[kept] for axis, places in x.items()}
    window = max(1, round(len(values) * SMOOTHING)) if smoothed else 1
    mean = values
    if window > 1:
        pieces = np.split(values, np.searchsorted(steps, sorted(cuts), side="right"))
        mean = np.concatenate([smooth(piece, min(window, max(len(piece), 1))) for piece in pieces])
    some = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS)).round().astype(int))
    place = {axis: places[some].tolist() for axis, places in x.items()}
    found = [Line(words, place, mean[some].tolist(), **style)]
    if window > 1:
        found.insert(0, Line(words, place, values[some].tolist(), faint=True, **style))
    return found


def _range(lines: Sequence[Line], beside: Sequence[float]) -> tuple[float | None, float | None]:
    """Bounds that leave out the first steps' spike, which would press everything else flat."""
    if not lines:
        return None, None
    settled = np.concatenate([np.asarray(line.y[len(line.y) // 10 :]) for line in lines] + [np.asarray(beside)])
    every = np.concatenate([np.asarray(line.y) for line in lines] + [np.asarray(beside)])
    low, high = float(np.nanmin(every)), float(np.nanmax(settled))
    margin = max(0.05 * (high - low), 0.02 * abs(high)) or 0.5
    return low - margin, high + margin


def _marks(record: Record, axes: Mapping[str, str]) -> list[Mark]:
    """The switches of stages, and the restarts."""
    named = [(step, f"τ: {spoken(stage)}") for step, stage in record.switches]
    named += [(int(start["step"]), "resumed") for start in record.starts[1:] if start.get("step")]
    found = []
    for step, name in named:
        place = {}
        for axis in axes:
            steps, values = series(record.metrics, axis, "step")
            if len(steps):
                place[axis] = float(np.interp(step, steps, values))
        found.append(Mark(name, place))
    return found


def _picture(content: bytes | None) -> str:
    if content is None:
        return "<p>The curves are drawn by a script, which this browser does not run.</p>"
    data = base64.b64encode(content).decode()
    return f'<figure><img alt="Curves of training and validation" src="data:image/png;base64,{data}"></figure>'
