"""Tokens of a text, each with a background by its value: entropies, losses, probabilities."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mixlm.errors import UserError

# Ours: from the page's white to the light end of Okabe & Ito's vermillion, on which dark text can be read everywhere.
LIGHT, DARK = (255, 255, 255), (240, 142, 72)
STEPS = 5  # of the legend


@dataclass(frozen=True)
class ColouredTokens:
    """Pieces of a text with a value each, which shows as colours in a notebook and prints as text with values.

    Args:
      texts: the text of each token, with the space before it where it begins a word.
      values: a figure of each token; None or NaN where it has none.
      name: what the values are, with their unit: "entropy, nats".
      low: the value of the lightest colour; by default the least.
      high: that of the darkest; by default the largest.
    """

    texts: Sequence[str]
    values: Sequence[float | None]
    name: str = ""
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.values):
            raise UserError(f"There are {len(self.texts)} tokens and {len(self.values)} values: give one for each.")

    @property
    def bounds(self) -> tuple[float, float]:
        """The values of the lightest and of the darkest colour."""
        known = [value for value in self.values if value is not None and math.isfinite(value)] or [0.0]
        low, high = (min(known) if self.low is None else self.low), (max(known) if self.high is None else self.high)
        return low, high

    def colour(self, value: float | None) -> str:
        """The background of a value as #RRGGBB; "" where there is none."""
        if value is None or not math.isfinite(value):
            return ""
        low, high = self.bounds
        share = min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)
        return "#" + "".join(f"{round(light + share * (dark - light)):02X}" for light, dark in zip(LIGHT, DARK))

    def __str__(self) -> str:
        pairs = zip(self.texts, self.values)
        return "".join(text if not self.colour(value) else f"{text}[{value:.2f}]" for text, value in pairs).strip()

    def _repr_html_(self) -> str:
        low, high = self.bounds
        marks = [low + (high - low) * step / (STEPS - 1) for step in range(STEPS)]
        legend = " ".join(_span(f"{mark:.2g}", self.colour(mark), self.name) for mark in marks)
        body = "".join(_token(text, self.colour(value), value) for text, value in zip(self.texts, self.values))
        return f'<div style="line-height:1.9"><p>{html.escape(self.name)} {legend}</p><p>{body}</p></div>'


def _token(text: str, colour: str, value: float | None) -> str:
    if not colour:
        return html.escape(text)
    # The space before a word keeps the page's colour, so that one sees where tokens begin.
    space, rest = (" ", text[1:]) if text.startswith(" ") else ("", text)
    return space + _span(rest, colour, f"{value:.3f}")


def _span(text: str, colour: str, title: str) -> str:
    style = f"background:{colour};color:#111;border-radius:3px;padding:1px 2px"
    return f'<span style="{style}" title="{html.escape(title)}">{html.escape(text)}</span>'
