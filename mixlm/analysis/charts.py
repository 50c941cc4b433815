"""Curves that can be zoomed and toggled: panels of lines as data in a page, which plotly's bundled script draws."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from mixlm.analysis.document import Part
from mixlm.errors import UserError

FIGURES = 6  # Ours: a screen tells no more apart, and the page stays small
INK = "ink"  # the page's own colour of text, light or dark


@dataclass(frozen=True)
class Line:
    """A line: its name, its place on every axis (equally long), and its values; NaN is a gap.

    Lines of one `group` are toggled together; a `faint` one stands in no legend, nor does one that is not `named`.
    """

    name: str
    x: Mapping[str, Sequence[float]]
    y: Sequence[float]
    colour: str = INK
    dash: str = "solid"
    group: str = ""
    faint: bool = False
    named: bool = True


@dataclass(frozen=True)
class Level:
    """A value to beat, drawn across the panel."""

    name: str
    value: float
    colour: str = INK
    dash: str = "dot"


@dataclass(frozen=True)
class Mark:
    """A place on every axis that has a name, such as a switch of stages."""

    name: str
    x: Mapping[str, float]


@dataclass(frozen=True)
class Panel:
    """A panel: its title, the unit of its values, and the range that it opens with."""

    title: str
    unit: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()
    low: float | None = None
    high: float | None = None


def plotly_script() -> str:
    """The script of plotly that draws; UserError where plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UserError("A page with curves needs plotly: pip install 'mixlm[report]'.") from None
    script: str = get_plotlyjs()
    # The end of a script would end the page's.
    return script.replace("</script", "<\\/script")


@dataclass(frozen=True)
class Charts(Part):
    """Panels below each other over one axis, which a reader chooses; `without` is HTML for who runs no scripts."""

    axes: Mapping[str, str]
    panels: Sequence[Panel]
    marks: Sequence[Mark] = ()
    without: str = ""
    scripts: tuple[str, ...] = field(default=(), repr=False)

    def html(self) -> str:
        """The controls, an empty place for each panel, and the data."""
        choices = "".join(
            f"<label><input type='radio' name='axis' value='{html.escape(key)}'> {html.escape(name)}</label>"
            for key, name in self.axes.items()
        )
        places = "".join(
            f"<h3>{html.escape(panel.title)} <small>{html.escape(panel.unit)}</small></h3><div class='chart'></div>"
            for panel in self.panels
        )
        return (
            f"<section class='charts' hidden><form><span>against</span>{choices}"
            "<label><input type='checkbox' name='log'> logarithmic</label>"
            "<span class='hint'>Drag to zoom, double-click to go back; click a name to hide it.</span></form>"
            f"{places}</section>\n<noscript>{self.without}</noscript>\n"
            f"<script type='application/json' id='charts'>{_embedded(self._data())}</script>"
        )

    def _data(self) -> dict[str, Any]:
        tables: list[dict[str, list[float | None]]] = []
        panels = []
        for panel in self.panels:
            lines = []
            for line in panel.lines:
                table = {axis: _rounded(line.x.get(axis, ())) for axis in self.axes}
                if table not in tables:
                    tables.append(table)
                lines.append({**vars(line), "x": tables.index(table), "y": _rounded(line.y)})
            levels = [vars(level) for level in panel.levels]
            bounds = _rounded([value for value in (panel.low, panel.high) if value is not None])
            panels.append({"lines": lines, "levels": levels, "range": bounds if len(bounds) == 2 else None})
        marks = [{"name": mark.name, "x": dict(mark.x)} for mark in self.marks]
        return {"axes": list(self.axes), "tables": tables, "panels": panels, "marks": marks}


def charts_script() -> str:
    """The page's own script, which hands the data to plotly."""
    return files("mixlm.analysis").joinpath("charts.js").read_text(encoding="utf-8")


def _rounded(values: Sequence[float]) -> list[float | None]:
    found = [float(f"{value:.{FIGURES}g}") if math.isfinite(value) else None for value in values]
    return [int(value) if value is not None and value.is_integer() and abs(value) < 1e15 else value for value in found]


def _embedded(data: Any) -> str:
    """JSON that ends no element of the page, whatever texts it holds."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
