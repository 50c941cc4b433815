"""The layout of a study on figures: what a line is, what a panel is, and the mean of several seeds' curves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mixlm.analysis.intervals import interval
from mixlm.analysis.study import Place, Study, key, shown

# Ours: as many panels as one looks at in a figure; a caption says which are left out.
MOST_PANELS = 8


@dataclass(frozen=True)
class Panel:
    """One panel of a figure: its title and its places."""

    title: str
    places: list[Place]


@dataclass(frozen=True)
class Layout:
    """The dimension that tells lines apart, an axis or "arm", and the panels that hold them."""

    lines: str
    panels: list[Panel]

    def line(self, place: Place) -> tuple[tuple[str, str], str]:
        """(the key of a place's colour, its name in the legend)."""
        if self.lines == "arm":
            return ("arm", place.arm), place.arm or "the recipe"
        value = place.values.get(self.lines)
        return (self.lines, key(value)), shown(value)


def layout(study: Study, lines: str | None = None, over: str | None = None) -> Layout:
    """Panels for a study, without the axis `over`, which a figure spreads along its x.

    Lines are the axis of the baseline, else the first axis, else the arms.
    """
    axes = [name for name, values in study.axes.items() if len(values) > 1 and name != over]
    if lines is None:
        first = [name for name in axes if name in study.baseline] or axes
        lines = first[0] if first else "arm"
    panels: dict[Place, list[Place]] = {}
    for place in study.places:
        arm = "" if lines == "arm" else place.arm
        rest = tuple((name, value) for name, value in place.axes if name in axes and name != lines)
        panels.setdefault(Place(arm, rest), []).append(place)
    return Layout(lines, [Panel(each.label if each.arm or each.axes else "", found) for each, found in panels.items()])


def averaged(
    curves: Mapping[int, tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(x, mean, low, high) of seeds' curves, at the points of the seed that has fewest, inside of what all cover.

    `low` and `high` are NaN for a single seed.
    """
    shortest = min(curves.values(), key=lambda pair: (len(pair[0]), pair[0].tolist()))[0]
    start, end = max(x.min() for x, _ in curves.values()), min(x.max() for x, _ in curves.values())
    x = shortest[(shortest >= start) & (shortest <= end)]
    columns = np.array([np.interp(x, *pair) for _, pair in sorted(curves.items())]).reshape(len(curves), len(x))
    found = [interval(column.tolist()) for column in columns.T]
    mean, low, high = (np.array([getattr(each, name) for each in found]) for name in ("mean", "low", "high"))
    return x, mean, low, high
