"""The examples of a run as they formed: the same rows at every evaluation, one below the other."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from mixlm.analysis.document import Part
from mixlm.reports.examples import NOTHING, ExampleText, Piece

MOST = 8  # Ours: evaluations that are shown of a row, the first and the last among them
ROOM = 1_500_000  # Ours: characters of all examples, so that a page of long rows stays below 8 MB
LONGEST = 6_000  # Ours: characters of one text, some 1,000 tokens


@dataclass(frozen=True)
class Forming(Part):
    """Rows of text with what the network made of them after some steps."""

    seen: Sequence[tuple[int, Sequence[ExampleText]]]

    def html(self) -> str:
        """A legend, then each row: what it reads, what it should say, and what was said at each step."""
        for most in range(MOST, 0, -1):
            found = self._rows(thinned(self.seen, most))
            if len(found) <= ROOM or most == 1:
                return found
        raise AssertionError("one evaluation is always shown")

    def _rows(self, seen: Sequence[tuple[int, Sequence[ExampleText]]]) -> str:
        kinds = ("replaced", "masked", "sentinel", "scored", "right", "wrong")
        legend = " ".join(f"<span class='{kind} token'>{kind}</span>" for kind in kinds)
        parts = [f"<p class='legend'>{legend}</p>"]
        rows: dict[tuple[str, int], list[tuple[int, ExampleText]]] = {}
        for step, examples in seen:
            for example in examples:
                rows.setdefault((example.objective, example.number), []).append((step, example))
        objective = None
        for number, ((name, _), own) in enumerate(rows.items()):
            if name != objective:
                parts.append(f"<h3>{html.escape(name)}</h3>")
                objective = name
            parts.append(_row(own, is_open=number == 0))
        return "\n".join(parts)


def thinned(seen: Sequence[tuple[int, Sequence[ExampleText]]], most: int) -> list[tuple[int, Sequence[ExampleText]]]:
    """At most so many evaluations, evenly spaced, the last one always among them."""
    if len(seen) <= most:
        return list(seen)
    if most == 1:
        return [seen[-1]]
    places = sorted({round(index * (len(seen) - 1) / (most - 1)) for index in range(most)})
    return [seen[place] for place in places]


def _row(seen: Sequence[tuple[int, ExampleText]], is_open: bool) -> str:
    last = seen[-1][1]
    body = []
    same = len({example.reads for _, example in seen}) == 1
    if same:
        body.append(_line("reads", _pieces(last.reads)))
    if last.fills:
        if not same:
            body += [_line(f"reads, step {step:,}", _pieces(example.reads)) for step, example in seen]
        body.append(_fills(seen))
    else:
        body.append(_line("targets", _pieces(last.says)))
        for step, example in seen:
            if not same:
                body.append(_line(f"step {step:,} reads", _pieces(example.reads)))
            body.append(_line(f"step {step:,}", _pieces(example.model) or "(no prediction)"))
    opened = " open" if is_open else ""
    return (
        f"<details class='example'{opened}><summary>{html.escape(last.title)}</summary>"
        f"<div class='lines'>{''.join(body)}</div></details>"
    )


def _line(name: str, content: str) -> str:
    return f"<div class='line'><span class='name'>{name}</span><span class='text'>{content}</span></div>"


def _fills(seen: Sequence[tuple[int, ExampleText]]) -> str:
    """A table of spans: the true text, and the network's at each step."""
    head = "".join(f"<th>{name}</th>" for name in ("span", "true", *(f"step {step:,}" for step, _ in seen)))
    rows = []
    for index, fill in enumerate(seen[-1][1].fills):
        cells = [f"<td>{html.escape(fill.name or 'all')}</td><td>{_escaped(fill.true)}</td>"]
        for _, example in seen:
            said = example.fills[index].model if index < len(example.fills) else ""
            kind = "right" if said == fill.true else "wrong"
            cells.append(f"<td><span class='{kind} token'>{_escaped(said or NOTHING)}</span></td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<div class='table'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _pieces(pieces: Sequence[Piece]) -> str:
    found: list[str] = []
    size = 0
    for piece in pieces:
        if size > LONGEST:
            return "".join([*found, " ..."])
        found.append(_piece(piece))
        size += len(piece.text)
    return "".join(found)


def _piece(piece: Piece) -> str:
    if piece.kind == "text":
        return _escaped(piece.text)
    # A space between two coloured tokens keeps the page's colour, so that one sees where each begins.
    space, text = (" ", piece.text[1:]) if piece.text.startswith(" ") else ("", piece.text)
    before = f"<s>{_escaped(piece.before.strip())}</s> " if piece.before else ""
    return f"{space}<span class='{html.escape(piece.kind, quote=True)} token'>{before}{_escaped(text)}</span>"


def _escaped(text: str) -> str:
    return html.escape(text[:LONGEST])
