"""Scales of a study's axes: where a value stands between its neighbours, for regression and for figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

# Ours: an axis whose largest value is eight times its smallest was laid out by factors.
_FACTOR = 8.0


@dataclass(frozen=True)
class Scale:
    """The coordinate of an axis: `kind` is "log2", "logit2", "linear" or, where values are no numbers, "names".

    logit2 is log2((a + e) / (1 - a + e)) of a share a, with e half of the smallest distance to 0 or 1 on the axis, so
    that both ends are finite and as far from their neighbours as these are among themselves. Ours: the Dual paper does
    not say on which scale its regression reads alpha.
    """

    kind: str
    margin: float = 0.0

    @property
    def text(self) -> str:
        """The scale in words."""
        return {
            "log2": "log2",
            "logit2": f"log2((x + e) / (1 - x + e)) with e = {self.margin:.4g}",
            "linear": "as it is",
            "names": "by name",
        }[self.kind]

    def forward(self, values: Any) -> Float[np.ndarray, "..."]:
        """Coordinates of values."""
        x = np.asarray(values, np.float64)
        if self.kind == "log2":
            return np.asarray(np.log2(x))
        if self.kind == "logit2":
            return np.asarray(np.log2((x + self.margin) / (1 - x + self.margin)))
        return x

    def backward(self, places: Any) -> Float[np.ndarray, "..."]:
        """Values of coordinates; a share stays between 0 and 1."""
        u = np.asarray(places, np.float64)
        if self.kind == "log2":
            return np.asarray(np.exp2(u))
        if self.kind == "logit2":
            odds = np.exp2(u)
            return np.asarray(np.clip((odds * (1 + self.margin) - self.margin) / (1 + odds), 0.0, 1.0))
        return u


def scale_of(values: Sequence[Any]) -> Scale:
    """The scale on which the values of an axis are laid out."""
    if not all(is_figure(value) for value in values):
        return Scale("names")
    numbers = sorted({float(value) for value in values})
    if len(numbers) > 2 and numbers[0] >= 0 and numbers[-1] <= 1:
        return Scale("logit2", min(min(x, 1 - x) for x in numbers if 0 < x < 1) / 2)
    if numbers and numbers[0] > 0 and numbers[-1] >= _FACTOR * numbers[0]:
        return Scale("log2")
    return Scale("linear")


def is_figure(value: Any) -> bool:
    """True for a finite number that is no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
