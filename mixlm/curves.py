"""The picture of a run: every training and validation term against steps and against compute."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

# Okabe & Ito's palette, told apart under every common colour blindness; black is kept for the baseline.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Ours: enough points for a picture 1,400 pixels wide, and a mean over a fiftieth of the run.
MOST_POINTS = 2000
SMOOTHING = 0.02


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


def terms(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys to draw, in the order of their first appearance: `loss`, `train/...`, `validation/...`."""
    known = dict.fromkeys(key for record in records for key in record)
    return [key for key in known if key == "loss" or key.startswith(("train/", "validation/"))]


def _pieces(x: np.ndarray, y: np.ndarray, switches: Sequence[float | int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """A term cut at the switches, since a mean across one would invent a slope there."""
    cuts = np.searchsorted(x, sorted(switches), side="right")
    return [(a, b) for a, b in zip(np.split(x, cuts), np.split(y, cuts), strict=True) if len(a)]


def _name(key: str) -> str:
    return key.removeprefix("train/").removeprefix("validation/")


def _styles(keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour per term, shared by training and validation; the loss is a wide grey band beneath its terms."""
    names = [name for name in dict.fromkeys(map(_name, keys)) if name != "loss"]
    colours = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}
    styles = {}
    for key in keys:
        if key == "loss":
            styles[key] = {"color": "#A6A6A6", "linewidth": 4.0, "zorder": 2}
        elif key.startswith("validation/"):
            styles[key] = {"color": colours[_name(key)], "linewidth": 1.6, "zorder": 4, "linestyle": (0, (4, 1.2))}
        else:
            # Past the palette's end, the dash tells apart.
            dash = "solid" if names.index(_name(key)) < len(PALETTE) else (0, (1, 1.2))
            styles[key] = {"color": colours[_name(key)], "linewidth": 1.9, "zorder": 3, "linestyle": dash}
    return styles


def _draw_term(
    axes: Any, key: str, x: np.ndarray, y: np.ndarray, style: dict[str, Any], switches: list[float | int]
) -> None:
    label = _name(key).replace("_", " ")
    if key.startswith("validation/"):
        marker = {"marker": "o", "markersize": 6, "markeredgecolor": "white"} if len(x) <= 60 else {}
        axes.plot(x, y, label=f"{label} (validation)", **marker, **style)
        return
    window = max(1, round(len(x) * SMOOTHING))
    for number, (a, b) in enumerate(_pieces(x, y, switches)):
        every = max(1, len(a) // MOST_POINTS)
        if window > 1:
            axes.plot(a[::every], b[::every], color=style["color"], alpha=0.18, linewidth=0.7)
        mean = smooth(b, min(window, len(b)))
        marker = {"marker": "."} if len(x) < 10 else {}
        axes.plot(a[::every], mean[::every], label=label if number == 0 else None, **marker, **style)


def _limits(axes: Any, drawn: list[np.ndarray]) -> None:
    """Leaves out the first steps' spike, which would press everything else flat."""
    values = np.concatenate(drawn)
    settled = np.concatenate([part[len(part) // 50 :] for part in drawn])
    low, high = values.min(), settled.max()
    margin = 0.05 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)


def _flops_at(records: Sequence[Mapping[str, Any]], step: int) -> float | None:
    """The compute spent when `step` steps were done, interpolated between the logged steps."""
    steps, flops = series(records, "flops", "step")
    return float(np.interp(step, steps, flops)) if len(steps) else None


def _mark_switches(axes: Any, switches: list[tuple[float | int, str]]) -> None:
    for number, (place, name) in enumerate(switches):
        axes.axvline(place, color="#444444", linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
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
    against: str,
    switches: list[tuple[float | int, str]],
    baseline: tuple[float | int, str] | None,
) -> None:
    from matplotlib.ticker import EngFormatter, StrMethodFormatter

    drawn = []
    for key, style in _styles(terms(records)).items():
        x, y = series(records, key, against)
        if not len(x):
            continue
        _draw_term(axes, key, x, y, style, [place for place, _ in switches])
        drawn.append(y)
    if baseline is not None:
        axes.axhline(baseline[0], color="black", linewidth=1.2, linestyle=(0, (1, 1.5)), label=baseline[1])
        drawn.append(np.array([baseline[0]]))
    _mark_switches(axes, switches)
    if drawn:
        _limits(axes, drawn)
    if against == "flops":
        axes.xaxis.set_major_formatter(EngFormatter())
    else:
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel({"step": "step", "flops": "cumulative FLOPs"}[against])
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(
    records: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    tau_steps: Sequence[tuple[int, str]] = (),
    title: str = "",
    baseline: tuple[float | int, str] | None = None,
) -> None:
    """Writes a PNG with every term of a run's records against steps (left) and cumulative FLOPs (right).

    `tau_steps` are (step, name) of the stages that begin after the first; `baseline` is a level to beat, such as the
    unigram entropy, with its label. Bold lines are means over a fiftieth of the run, within a stage; faint ones the
    records themselves. Records may lack any key; values that are not finite are left out.
    """
    # Without pyplot: no global state, no window, no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_panel(left, records, "step", list(tau_steps), baseline)
    in_flops = [(_flops_at(records, step), name) for step, name in tau_steps]
    _draw_panel(right, records, "flops", [(place, name) for place, name in in_flops if place is not None], baseline)
    left.set_ylabel("loss (nats)")
    handles, labels = left.get_legend_handles_labels()
    if handles:
        rows = math.ceil(len(labels) / 5)
        figure.legend(handles, labels, loc="outside lower center", ncols=math.ceil(len(labels) / rows), frameon=False)
    if title:
        figure.suptitle(title, fontsize=13)
    draft = Path(path).with_suffix(".tmp.png")
    figure.savefig(draft)
    # A picture that someone is looking at is never half-written.
    draft.replace(path)
