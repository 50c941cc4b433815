"""The compute, tokens or steps at which a curve first reaches a value, interpolated between evaluation points."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mixlm.analysis.cells import Cells
from mixlm.analysis.intervals import Interval, interval
from mixlm.analysis.study import Place


def reach(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"], target: float, goal: str = "min") -> float | None:
    """The x at which y first is at `target` or beyond it, or None where it never is.

    Between two points both are interpolated in their logarithms, where all are positive, since losses fall as powers of
    compute; else as they are. A curve that begins beyond the target reached it no later than at its first point.
    """
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    beyond = y <= target if goal == "min" else y >= target
    if not beyond.any():
        return None
    first = int(beyond.argmax())
    if first == 0:
        return float(x[0])
    ends = np.array([x[first - 1], x[first], y[first - 1], y[first], target])
    logarithmic = bool((ends > 0).all())
    a, b, low, high, level = np.log(ends) if logarithmic else ends
    place = a + (level - low) / (high - low) * (b - a)
    return float(np.exp(place) if logarithmic else place)


@dataclass(frozen=True)
class Reached:
    """The cost at which seeds of a place reach a target: the geometric mean with its interval, and how many of `n` do.

    There is no interval where a seed does not reach the target: the mean of the others would flatter.
    """

    place: Place
    target: float
    spread: Interval
    reached: int
    n: int


def reached(
    cells: Cells, metric: str, against: str, targets: Mapping[Place, float], goal: str = "min"
) -> list[Reached]:
    """The cost at which each place with a target reaches it."""
    found = []
    for place, curves in cells.curves(metric, against).items():
        if place not in targets or not curves:
            continue
        places = [reach(x, y, targets[place], goal) for x, y in curves.values()]
        inside = [np.log(each) for each in places if each is not None and each > 0]
        spread = interval(inside if len(inside) == len(places) else [])
        back = Interval(
            float(np.exp(spread.mean)), float(np.exp(spread.low)), float(np.exp(spread.high)), spread.n, spread.how
        )
        found.append(Reached(place, targets[place], back, sum(each is not None for each in places), len(places)))
    return found
