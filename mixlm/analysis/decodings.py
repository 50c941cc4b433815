"""Figure of the share of exact answers against network calls, for each decoding of each place of a study."""

import re
from collections.abc import Mapping
from typing import Any

from mixlm.analysis.cells import Cells
from mixlm.analysis.intervals import interval
from mixlm.analysis.style import PALETTE, Png, figure, plain, png
from mixlm.errors import UserError

_STEPS = re.compile(r"_?steps_\d+")
Curve = list[tuple[float, float, float, float]]


def decodings_figure(cells: Cells, evaluation: str = "exact") -> Png:
    """A panel for each strategy whose steps vary; strategies of one point, such as autoregressive, are stars in each.

    Bars are 95% intervals over seeds, where there are several. Calls are on a logarithmic scale.
    """
    curves = decoding_curves(cells, evaluation)
    groups = [name for name in dict.fromkeys(name for own in curves.values() for name in own)]
    several = [name for name in groups if any(len(own.get(name, ())) > 1 for own in curves.values())] or groups
    single = [name for name in groups if name not in several]
    drawn = figure(2.4 + 4.4 * len(several), 3.9)
    grid = drawn.subplots(1, len(several), sharey=True, squeeze=False)[0]
    for axes, group in zip(grid, several):
        for number, (place, own) in enumerate(curves.items()):
            colour = PALETTE[number % len(PALETTE)]
            _draw(axes, own.get(group, []), colour, place, "o")
            for other in single:
                _draw(axes, own.get(other, []), colour, f"{place}, {other}", "*")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(group.replace("_", " "), fontsize=10)
        axes.set_xlabel("network calls for a text")
        axes.set_ylim(-0.03, 1.03)
        plain(axes)
    grid[0].set_ylabel("share of exact answers")
    handles = {name: handle for axes in grid for handle, name in zip(*axes.get_legend_handles_labels())}
    drawn.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=9)
    return png(drawn)


def decoding_curves(cells: Cells, evaluation: str = "exact") -> dict[str, dict[str, Curve]]:
    """(calls, mean, low, high) of each decoding, by place and by the decoding without its steps; sorted by calls.

    Raises UserError for a table whose study evaluated no exact match of that name.
    """
    head = f"evaluation/{evaluation}/"
    labels = [
        name.removeprefix(head).removesuffix("/exact")
        for name in cells.metrics
        if name.startswith(head) and name.endswith("/exact")
    ]
    labels = [label for label in labels if f"{head}{label}/calls" in cells.frame.columns]
    if not labels:
        raise UserError(f"The table of {cells.study.name} has no exact match: no column {head}DECODING/exact.")
    found: dict[str, dict[str, Curve]] = {}
    for label in labels:
        exact, calls = cells.values(f"{head}{label}/exact"), cells.values(f"{head}{label}/calls")
        for place in (place for place, seeds in exact.items() if seeds):
            own = found.setdefault(place.label, {}).setdefault(_STEPS.sub("", label), [])
            own.append(_point(exact[place], calls[place]))
    return {place: {name: sorted(curve) for name, curve in own.items()} for place, own in found.items()}


def _point(exact: Mapping[int, float], calls: Mapping[int, float]) -> tuple[float, float, float, float]:
    share, x = interval(list(exact.values())), sum(calls.values()) / max(len(calls), 1)
    return (x, share.mean, share.low, share.high) if share.known else (x, share.mean, share.mean, share.mean)


def _draw(axes: Any, curve: Curve, colour: str, name: str, marker: str) -> None:
    if not curve:
        return
    x, mean, low, high = zip(*curve)
    bars = [[m - a for m, a in zip(mean, low)], [b - m for m, b in zip(mean, high)]]
    style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 12 if marker == "*" else 5}
    style["linestyle"] = "none" if len(x) == 1 else "solid"
    axes.errorbar(x, mean, bars if any(map(any, bars)) else None, label=name, linewidth=1.6, capsize=2.5, **style)
