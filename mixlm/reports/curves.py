"""The picture of a run: every training and validation term against steps, compute, tokens or epochs."""

import io
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mixlm.errors import UserError, nearest
from mixlm.files import replacing
from mixlm.reports.panels import (
    HEIGHTS,
    TOTAL,
    YARDSTICKS,
    legend_of,
    levels,
    owner_of,
    panels,
    spoken,
    styles,
)

# Ours: enough points for a picture 1,400 pixels wide, and a mean over a fiftieth of the run.
MOST_POINTS = 2000
SMOOTHING = 0.02
LEGEND = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False, "fontsize": 9}
# What terms can be drawn against: figures of the record that grow from line to line, and how the axis is called.
AXES = {"step": "step", "flops": "cumulative FLOPs", "tokens": "tokens read", "epoch": "epochs"}


def check_axes(names: Sequence[str]) -> None:
    """Raises UserError unless `names` are some of AXES."""
    if not names:
        raise UserError(f"CURVES names nothing to draw against; give some of {', '.join(AXES)}.")
    for name in names:
        if name not in AXES:
            raise UserError(
                f"CURVES = {tuple(names)} names {name!r}, and curves are drawn against {', '.join(AXES)}."
                f"{nearest(str(name), AXES)}"
            )


def smooth(values: Float[np.ndarray, " N"], window: int) -> Float[np.ndarray, " N"]:
    """The centred mean over `window` neighbours (fewer at the ends), which lags behind no switch."""
    if window <= 1:
        return values
    before, after = window // 2, window - window // 2
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    low = np.maximum(np.arange(len(values)) - before, 0)
    high = np.minimum(np.arange(len(values)) + after, len(values))
    return (total[high] - total[low]) / (high - low)


def series(records: Sequence[Mapping[str, Any]], key: str, against: str) -> tuple[np.ndarray, np.ndarray]:
    """The finite values of `key` and of `against` in the records that have both."""
    pairs = [(record[against], record[key]) for record in records if _is_number(record, key, against)]
    found = np.array(pairs, np.float64).reshape(-1, 2)
    found = found[np.isfinite(found).all(axis=1)]
    return found[:, 0], found[:, 1]


def _is_number(record: Mapping[str, Any], *keys: str) -> bool:
    return all(isinstance(record.get(key), int | float) for key in keys)


def _pieces(x: np.ndarray, y: np.ndarray, switches: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """A term cut at the switches, since a mean across one would invent a slope there."""
    cuts = np.searchsorted(x, sorted(switches), side="right")
    return [(a, b) for a, b in zip(np.split(x, cuts), np.split(y, cuts), strict=True) if len(a)]


def _draw_levels(axes: Any, found: Sequence[tuple[str, float, list[str]]], colours: Mapping[str, str]) -> None:
    for kind, value, terms in found:
        _, words, dash = YARDSTICKS[kind]
        # Where all lie apart, the colour says whose each is.
        alone = len(terms) == 1
        label, colour = (f"{spoken(terms[0])}: {words}", colours.get(terms[0], "black")) if alone else (words, "black")
        axes.axhline(value, color=colour, linewidth=1.2, linestyle=dash, label=label, zorder=2)


def _draw_term(
    axes: Any, key: str, x: np.ndarray, y: np.ndarray, style: dict[str, Any], switches: list[float], label: str | None
) -> None:
    if key.startswith("validation/"):
        marker = {"marker": "o", "markersize": 5, "markeredgecolor": "white"} if len(x) <= 60 else {}
        axes.plot(x, y, label=label, zorder=4, **marker, **style)
        return
    window = max(1, round(len(x) * SMOOTHING))
    for number, (a, b) in enumerate(_pieces(x, y, switches)):
        every = max(1, len(a) // MOST_POINTS)
        if window > 1 and key.count("/") < 2:  # accuracies and shares are many, and would hide one another
            axes.plot(a[::every], b[::every], color=style["color"], alpha=0.25, linewidth=0.7)
        mean = smooth(b, min(window, len(b)))
        marker = {"marker": "."} if len(x) < 10 else {}
        axes.plot(a[::every], mean[::every], label=label if number == 0 else None, zorder=3, **marker, **style)


def _limits(axes: Any, drawn: list[np.ndarray]) -> None:
    """Leaves out the first steps' spike, which would press everything else flat."""
    values = np.concatenate(drawn)
    settled = np.concatenate([part[len(part) // 50 :] for part in drawn])
    low, high = values.min(), settled.max()
    margin = 0.05 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)


def _place(records: Sequence[Mapping[str, Any]], step: int, against: str) -> float | None:
    """The position of `step` on an axis, interpolated between the logged steps."""
    steps, values = series(records, against, "step")
    return float(np.interp(step, steps, values)) if len(steps) else None


def _mark_switches(axes: Any, switches: list[tuple[float, str]], named: bool) -> None:
    for number, (place, name) in enumerate(switches):
        axes.axvline(place, color="#444444", linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
        if not named:
            continue
        axes.annotate(
            f"τ: {name.replace('_', ' ')}",
            xy=(place, 1.0),
            xycoords=("data", "axes fraction"),
            # Above the axes, where no curve runs; neighbours take turns in height.
            xytext=(0, 4 + 12 * (number % 2)),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color="#444444",
        )


def _draw_panel(
    axes: Any,
    records: Sequence[Mapping[str, Any]],
    styled: Mapping[str, dict[str, Any]],
    panel: str,
    against: str,
    switches: list[tuple[float, str]],
) -> None:
    drawn = []
    for key, style in styled.items():
        x, y = series(records, key, against)
        if not len(x):
            continue
        _draw_term(axes, key, x, y, style, [place for place, _ in switches], legend_of(key, list(styled), panel))
        drawn.append(y)
    if drawn:
        found = levels(records, panel, float(np.ptp(np.concatenate(drawn))))
        _draw_levels(axes, found, {owner_of(key): style["color"] for key, style in styled.items()})
        _limits(axes, [*drawn, *(np.array([value]) for _, value, _ in found)])
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(
    records: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    tau_steps: Sequence[tuple[int, str]] = (),
    title: str = "",
    against: Sequence[str] = ("step", "flops"),
) -> None:
    """Writes `figure(...)` as a PNG, in one rename, so that a reader never sees half a picture."""
    with replacing(Path(path), "wb") as file:
        figure(records, tau_steps, title, against).savefig(file, format="png")


@cache
def figure_class() -> Any:
    """The class of figures that a notebook shows without pyplot and its inline backend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Curves(Figure):
        """A Figure with a canvas of its own, so that no global state, window or display is needed."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            FigureCanvasAgg(self)

        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    return Curves


def figure(
    records: Sequence[Mapping[str, Any]],
    tau_steps: Sequence[tuple[int, str]] = (),
    title: str = "",
    against: Sequence[str] = ("step", "flops"),
) -> Any:
    """A matplotlib Figure with every term of a run's records against each of `against` (see `AXES`), side by side.

    `tau_steps` are (step, name) of the stages that begin after the first. A term has one colour in all panels. Bold
    lines are means over a fiftieth of the run, within a stage; faint ones the records themselves; dotted ones the
    yardsticks of the last record, in black where several terms have the same. Records may lack any key; values that are
    not finite are left out.
    """
    from matplotlib.ticker import EngFormatter, StrMethodFormatter

    rows = panels(records) or {TOTAL: []}
    style = styles(rows)
    heights = [HEIGHTS[label] for label in rows]
    # The legend takes three inches on the right.
    drawn = figure_class()(figsize=(3 + 6 * len(against), 1.2 + sum(heights)), dpi=100, layout="constrained")
    grid = drawn.subplots(len(rows), len(against), sharex="col", sharey="row", squeeze=False, height_ratios=heights)
    for column, axis in enumerate(against):
        found = [(_place(records, step, axis), name) for step, name in tau_steps]
        switches = [(place, name) for place, name in found if place is not None]
        for row, (panel, keys) in enumerate(rows.items()):
            _draw_panel(grid[row][column], records, {key: style[key] for key in keys}, panel, axis, switches)
            _mark_switches(grid[row][column], switches, named=row == 0)
        grid[-1][column].set_xlabel(AXES[axis])
        if axis in ("flops", "tokens"):
            grid[-1][column].xaxis.set_major_formatter(EngFormatter())
        elif axis == "step":
            grid[-1][column].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for row, label in enumerate(rows):
        grid[row][0].set_ylabel(label)
        if grid[row][-1].get_legend_handles_labels()[0]:
            words = "dashed: validation" if row == 0 and any(key.startswith("validation/") for key in style) else None
            grid[row][-1].legend(title=words, title_fontsize=9, alignment="left", **LEGEND)
    if title:
        drawn.suptitle(title, fontsize=13)
    return drawn
