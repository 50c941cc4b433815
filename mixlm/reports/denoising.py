"""The states of a diffusion text as HTML: a row for each step, a cell for each token, coloured where it has changed."""

import html
from collections.abc import Sequence

from mixlm.reports.examples import COLOURS

CELL = "padding:1px 4px;text-align:center;white-space:pre"


def steps_table(states: Sequence[Sequence[str]], mask: str = "_") -> str:
    """A table of tokens by step; a token that differs from the step before is coloured, and so is a mask."""
    rows = []
    for step, state in enumerate(states):
        before = states[step - 1] if step else state
        cells = "".join(_cell(token, old, mask) for token, old in zip(state, before))
        rows.append(f'<tr><td style="{CELL};opacity:0.7">step {step}</td>{cells}</tr>')
    key = "".join(
        f'<span style="background:{colour};color:#111;border-radius:3px;padding:0 4px;margin:0 4px">{name}</span>'
        for name, colour in (("changed in this step", COLOURS["right"]), ("masked", COLOURS["masked"]))
    )
    return f'<p>{key}</p><div style="overflow-x:auto"><table style="font-size:85%">{"".join(rows)}</table></div>'


def _cell(token: str, old: str, mask: str) -> str:
    colour = COLOURS["masked"] if token == mask else COLOURS["right"] if token != old else ""
    style = f"{CELL};background:{colour};color:#111" if colour else CELL
    return f'<td style="{style}">{html.escape(token)}</td>'
