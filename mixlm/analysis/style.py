"""The look of figures: one colour for each series of a study, in every figure, and axes that say their units."""

import io
import os
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixlm.analysis.scales import Scale, is_figure, scale_of
from mixlm.analysis.study import Study, bare, key, position, shown
from mixlm.files import replacing
from mixlm.paths import local

# Okabe & Ito's palette, told apart under every common colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Ours: maps that rise evenly in lightness; their light ends, which fade on white, are left out. One an axis.
MAPS = ("viridis", "plasma", "cividis")
_MAP_END = 0.88
INK, GRID = "#333333", "#DDDDDD"
DPI = 110
LABEL = 30  # Ours: letters in a line of a label, as many as a panel of 2.5 inches is high
UNITS = {
    "step": "step",
    "tokens": "tokens read",
    "epochs": "epochs (repeats of the unique tokens)",
    "flops": "FLOPs",
    "seconds": "seconds",
}


def colours(study: Study) -> dict[tuple[str, str], Any]:
    """The colour of each value of each axis, by (axis, key of the value), and of each arm, by ("arm", its name)."""
    from matplotlib import colormaps

    found: dict[tuple[str, str], Any] = {
        ("arm", name): PALETTE[number % len(PALETTE)] for number, name in enumerate(study.arms)
    }
    for number, (axis, values) in enumerate(study.axes.items()):
        ordered = sorted(values, key=float) if all(map(is_figure, values)) else None
        for index, value in enumerate(values):
            if ordered is None or len(values) < 3:
                found[axis, key(value)] = PALETTE[index % len(PALETTE)]
            else:
                share = position(value, ordered) / (len(ordered) - 1)
                found[axis, key(value)] = colormaps[MAPS[number % len(MAPS)]](_MAP_END * share)
    return found


def figure(width: float, height: float) -> Any:
    """A matplotlib Figure with a canvas of its own, so that no global state or display is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


class Png(bytes):
    """A picture that a notebook shows."""

    def __repr__(self) -> str:
        return f"Png({len(self):,} bytes)"

    def _repr_png_(self) -> bytes:
        return bytes(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the picture into a file."""
        with replacing(local(path), "wb") as file:
            file.write(self)


def png(drawn: Any) -> Png:
    """The figure as PNG; the same figure is the same bytes."""
    from PIL import Image

    drawn.canvas.draw()
    content = io.BytesIO()
    # 256 colours are a third of the bytes, and a page that holds its figures stays small enough for git.
    image = Image.fromarray(np.asarray(drawn.canvas.buffer_rgba())).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(content, format="png", optimize=True)
    return Png(content.getvalue())


def plain(axes: Any) -> None:
    """A light grid behind the data, and no frame but the two axes."""
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)


def named_ticks(axes: Any, which: str, values: Sequence[Any], scale: Scale) -> None:
    """Ticks at the values of a study's axis, which are on none of matplotlib's own scales."""
    values = sorted(values, key=float) if scale.kind != "names" else list(values)
    places = range(len(values)) if scale.kind == "names" else scale.forward(values)
    target = axes.xaxis if which == "x" else axes.yaxis
    # Ours: names are as wide as their panels let them be.
    target.set_ticks(list(places), [textwrap.fill(shown(value), 14) for value in values])
    target.minorticks_off()
    if which == "x" and len(values) > 7:
        axes.tick_params(axis="x", rotation=45)


def coordinate(study: Study, axis: str) -> tuple[Scale, dict[str, float]]:
    """The scale of an axis and the coordinate of each of its values, by key."""
    values, scale = study.axes[axis], scale_of(study.axes[axis])
    if scale.kind == "names":
        return scale, {key(value): float(index) for index, value in enumerate(values)}
    return scale, {key(value): float(scale.forward(value)) for value in values}


def unit(metric: str) -> str:
    """A metric with its unit, in lines short enough for the axis of a small panel."""
    name = bare(metric)
    # Ours: what a step of training or validation calls a term is a cross-entropy or a bound in nats.
    is_loss = name.startswith(("validation/", "train/")) and name.count("/") == 1
    lines = [""]
    for part in re.findall(r"[^/ _]+[/ _]?", name):
        if lines[-1] and len(lines[-1] + part) > LABEL:
            lines.append("")
        lines[-1] += part
    lines = [line.replace("_", " ").strip() for line in lines]
    lines += ["at the best checkpoint"] if metric.startswith("best:") else []
    return "\n".join([*lines, *(["nats per token"] if is_loss else [])])
