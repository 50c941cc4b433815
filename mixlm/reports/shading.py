"""Tokens shaded by a figure of each, such as an entropy or a probability, as text or as HTML."""

import html
import math
from dataclasses import dataclass
from functools import cached_property

# White to Okabe & Ito's sky blue, under dark text; a mark is their vermilion, told apart under every colour blindness.
FULL = (86, 180, 233)
MARK = "#D55E00"
STEPS = 5  # Ours: shades in a legend.


@dataclass(frozen=True)
class ShadedToken:
    """A token's text, with the space before it, and its value; None is not shaded.

    A marked token is underlined; `before` is what stood in its place, struck out before it.
    """

    text: str
    value: float | None = None
    marked: bool = False
    before: str = ""

    def __str__(self) -> str:
        space = " " if self.text.startswith(" ") else ""
        old = f"{self.before.strip()} -> " if self.before else ""
        figure = "" if self.value is None else f" {self.value:.2f}"
        return self.text if self.value is None and not old else f"{space}[{old}{self.text.strip()}{figure}]"


@dataclass(frozen=True)
class ShadedTokens:
    """Rows of tokens, whose values are shades from their lowest to their highest; `label` is what they are, with unit.

    `meaning` says what a mark is; `titles` stand before the rows, one each. The legend has the values of five shades.
    """

    rows: tuple[tuple[ShadedToken, ...], ...]
    label: str
    meaning: str = ""
    titles: tuple[str, ...] = ()

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value of the tokens, white and the full colour; (0, 0) where none has one."""
        values = [token.value for row in self.rows for token in row if token.value is not None]
        values = [value for value in values if math.isfinite(value)]
        return (min(values), max(values)) if values else (0.0, 0.0)

    def __str__(self) -> str:
        titles = self.titles or ("",) * len(self.rows)
        lines = [f"{title}  {''.join(map(str, row)).strip()}".strip() for title, row in zip(titles, self.rows)]
        return "\n".join([f"[token value]: {self.label}", *lines])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        titles = self.titles or ("",) * len(self.rows)
        cell = "text-align:left;vertical-align:top"
        body = "".join(
            f'<tr><td style="{cell};opacity:0.7;white-space:nowrap">{html.escape(title)}</td>'
            f'<td style="{cell}">{"".join(self._span(token) for token in row)}</td></tr>'
            for title, row in zip(titles, self.rows)
        )
        return f'<div style="line-height:1.8">{self._legend()}<table style="margin:0 0 1em 0">{body}</table></div>'

    def _legend(self) -> str:
        low, high = self.ends
        values = [low + (high - low) * step / (STEPS - 1) for step in range(STEPS)]
        swatches = "".join(_shaded(f"{value:.3g}", self._share(value), f"{value:.3g}") for value in values)
        mark = f" &nbsp; {_shaded(self.meaning, None, '', marked=True)}" if self.meaning else ""
        return f"<p>{html.escape(self.label)}, from the lowest here to the highest: {swatches}{mark}</p>"

    def _share(self, value: float) -> float:
        low, high = self.ends
        return min(max(0.0, (value - low) / (high - low)), 1.0) if high > low else 0.0  # NaN is white

    def _span(self, token: ShadedToken) -> str:
        if token.value is None and not token.marked:
            return html.escape(token.text)
        share, title = (None, "") if token.value is None else (self._share(token.value), f"{token.value:.3g}")
        # A space between two shaded tokens keeps the page's colour, so that one sees where each begins.
        space, text = (" ", token.text[1:]) if token.text.startswith(" ") else ("", token.text)
        return space + _shaded(text, share, title, token.marked, token.before.strip())


def _shaded(text: str, share: float | None, title: str, marked: bool = False, before: str = "") -> str:
    style = "border-radius:3px;padding:0 2px;margin:0 1px"
    if share is not None:
        colour = ",".join(str(round(255 + (part - 255) * share)) for part in FULL)
        style += f";background:rgb({colour});color:#111"
    if marked:
        style += f";border-bottom:3px solid {MARK}"
    old = f"<s>{html.escape(before)}</s> " if before else ""
    return f'<span style="{style}" title="{html.escape(title)}">{old}{html.escape(text)}</span>'
