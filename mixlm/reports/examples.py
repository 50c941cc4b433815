"""Examples for a reader: what a network reads, what was replaced or masked in it, what is scored; as text or HTML."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mixlm.reports.units import INDENT

Kind = Literal["text", "replaced", "masked", "sentinel", "scored", "right", "wrong"]
NOTHING = "(nothing)"
# Backgrounds of Okabe & Ito's hues, light enough for dark text, told apart under every common colour blindness.
COLOURS: dict[Kind, str] = {
    "replaced": "#F5C6A5",
    "masked": "#F3E7A0",
    "sentinel": "#D9D9D9",
    "scored": "#B9DDF2",
    "right": "#B5E3D3",
    "wrong": "#EFC9DC",
}


@dataclass(frozen=True)
class Piece:
    """Some text of a row and what was done to it; `before` is the token that a sample or a mask stands for."""

    text: str
    kind: Kind = "text"
    before: str = ""

    def __str__(self) -> str:
        if not self.before:
            return self.text
        space = " " if self.text.startswith(" ") else ""
        return f"{space}[{self.before.strip()} -> {self.text.strip()}]"


@dataclass(frozen=True)
class Fill:
    """A span by its sentinel's name ("" for a whole text), with its true text and the network's."""

    name: str
    true: str
    model: str

    def __str__(self) -> str:
        return f"{self.name}  true: {self.true}  |  model: {self.model or NOTHING}".strip()


@dataclass(frozen=True)
class ExampleText:
    """A row of an objective's example: the inputs that its network `reads`, and the scored targets (`says`).

    With parameters, `model` is the likeliest token at each scored place, or `fills` are the spans as a decoder fills
    them, beside the true ones. `part` is the objective of the row in a mixture.
    """

    objective: str
    number: int
    reads: tuple[Piece, ...]
    says: tuple[Piece, ...]
    model: tuple[Piece, ...] = ()
    fills: tuple[Fill, ...] = ()
    part: str = ""

    @property
    def title(self) -> str:
        """The example's number and, in a mixture, the objective of its row."""
        return f"example {self.number}" + (f", {self.part}" if self.part else "")

    @property
    def lines(self) -> list[str]:
        """The inputs, targets and predictions, or the inputs and the fills."""
        if self.fills:
            return [f"inputs   {joined(self.reads)}", *map(str, self.fills)]
        lines = [f"inputs   {joined(self.reads)}", f"targets  {joined(self.says)}"]
        return [*lines, f"model    {joined(self.model)}"] if self.model else lines

    def __str__(self) -> str:
        return "\n".join([self.title, *(INDENT + line for line in self.lines)])

    def _repr_html_(self) -> str:
        return as_html([self])


class Examples(tuple[ExampleText, ...]):
    """Examples in order of objective and row, which print as lines and show in colours in a notebook."""

    @property
    def lines(self) -> list[str]:
        """The lines of all examples, those of an objective under its name."""
        found: list[str] = []
        for index, example in enumerate(self):
            if index == 0 or self[index - 1].objective != example.objective:
                found += ["", f"examples of {example.objective}"]
            found += str(example).splitlines()
        return found[1:]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def joined(pieces: Sequence[Piece]) -> str:
    """The text of pieces on one line."""
    return "".join(map(str, pieces)).strip()


def as_html(examples: Sequence[ExampleText]) -> str:
    """Examples as HTML with inline styles alone, so that a saved notebook shows them wherever it is opened."""
    parts = [_legend(examples)]
    for index, example in enumerate(examples):
        if index == 0 or examples[index - 1].objective != example.objective:
            parts.append(f"<p><b>{html.escape(example.objective)}</b></p>")
        rows = [("inputs", example.reads), ("targets", example.says), ("model", example.model)]
        shown = [
            (name, _spans(pieces)) for name, pieces in rows if pieces and not (example.fills and name == "targets")
        ]
        if example.part:
            parts.append(f"<p>{html.escape(example.title)}</p>")
        shown += [(fill.name or "all", _fill(fill)) for fill in example.fills]
        parts.append(_rows(shown))
    return f'<div style="line-height:1.7">{"".join(parts)}</div>'


def _legend(examples: Sequence[ExampleText]) -> str:
    kinds = {piece.kind for example in examples for piece in (*example.reads, *example.says, *example.model)}
    kinds |= {"right" if fill.true == fill.model else "wrong" for example in examples for fill in example.fills}
    return "<p>" + " ".join(_span(Piece(kind, kind)) for kind in COLOURS if kind in kinds) + "</p>"


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    label = "vertical-align:top;text-align:left;opacity:0.7;padding-right:1em;white-space:nowrap"
    body = "".join(
        f'<tr><td style="{label}">{html.escape(name)}</td><td style="text-align:left">{content}</td></tr>'
        for name, content in rows
    )
    return f'<table style="margin:0 0 1em 0">{body}</table>'


def _fill(fill: Fill) -> str:
    kind: Kind = "right" if fill.true == fill.model else "wrong"
    return f"{html.escape(fill.true)} &nbsp; {_span(Piece(fill.model or NOTHING, kind))}"


def _spans(pieces: Sequence[Piece]) -> str:
    return "".join(map(_span, pieces))


def _span(piece: Piece) -> str:
    if piece.kind == "text":
        return html.escape(piece.text)
    # A space between two coloured tokens keeps the page's colour, so that one sees where each begins.
    space, text = (" ", piece.text[1:]) if piece.text.startswith(" ") else ("", piece.text)
    style = f"background:{COLOURS[piece.kind]};color:#111;border-radius:3px;padding:0 2px;margin:0 1px"
    before = f"<s>{html.escape(piece.before.strip())}</s> " if piece.before else ""
    return f'{space}<span style="{style}" title="{piece.kind}">{before}{html.escape(text)}</span>'
