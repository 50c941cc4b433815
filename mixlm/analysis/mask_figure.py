"""Attention masks as pictures: a dark cell where the token of the row attends to the token of the column."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from mixlm.analysis.style import INK, PALETTE, Png, figure, png

NAMED = 26  # Ours: so many tokens have room for their names beside a panel
SEEN, SCORED = "#A9CCE3", PALETTE[0]


@dataclass(frozen=True)
class MaskPanel:
    """One mask: who attends (rows), to whom (columns), the tokens on both sides, and the rows that are scored."""

    title: str
    seen: Bool[np.ndarray, "T S"]
    queries: Sequence[str]
    keys: Sequence[str]
    scored: Bool[np.ndarray, " T"]


def attended(
    mask_ar: Int[np.ndarray, " T"], queries: Int[np.ndarray, " T"], keys: Int[np.ndarray, " S"] | None = None
) -> Bool[np.ndarray, "T S"]:
    """True where position t attends to s, as `Example` says it by `decoder_mask_ar` and segments (0 is padding).

    With the segments of other `keys` it is attention to another sequence: all of the query's segment.
    """
    others = queries if keys is None else keys
    same = (queries[:, None] == others[None, :]) & (queries[:, None] > 0)
    if keys is not None:
        return same
    opened = np.cumsum(mask_ar)
    return same & (opened[None, :] <= opened[:, None])


def mask_figure(panels: Sequence[MaskPanel]) -> Png:
    """The masks side by side, three in a row: light where a token is seen, dark where the seeing one is scored."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    drawn = figure(4.3 * columns, 0.6 + 4.3 * rows)
    grid = drawn.subplots(rows, columns, squeeze=False)
    for spare in grid.flat[len(panels) :]:
        spare.set_visible(False)
    for axes, panel in zip(grid.flat, panels):
        shade = panel.seen * (1 + panel.scored[:, None])
        axes.imshow(shade, cmap=ListedColormap(["#FFFFFF", SEEN, SCORED]), vmin=0, vmax=2, interpolation="nearest")
        axes.set_title(panel.title, fontsize=10, color=INK)
        _name(axes.xaxis, panel.keys, rotation=90)
        _name(axes.yaxis, panel.queries)
        axes.set_xticks(np.arange(-0.5, panel.seen.shape[1]), minor=True)
        axes.set_yticks(np.arange(-0.5, panel.seen.shape[0]), minor=True)
        axes.grid(which="minor", color="#E8E8E8", linewidth=0.5)
        axes.tick_params(which="both", length=0, labelsize=7, labelcolor=INK)
    patches = [Patch(color=SEEN, label="attends"), Patch(color=SCORED, label="attends, and its prediction is scored")]
    drawn.legend(handles=patches, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return png(drawn)


def _name(axis: object, tokens: Sequence[str], rotation: int = 0) -> None:
    """The tokens at their places, where there is room for them all."""
    named = len(tokens) <= NAMED
    labels = [_plain(token) for token in tokens] if named else []
    axis.set_ticks(range(len(tokens)) if named else [], labels, rotation=rotation)  # type: ignore[attr-defined]


def _plain(token: str) -> str:
    """A token as a label: short, and without what matplotlib would set as mathematics."""
    text = token.strip().replace("<extra_id_", "<").replace("$", r"\$") or "\u2423"
    return text if len(text) <= 12 else f"{text[:11]}\u2026"
