"""Loss by token frequency: runs against the number of times that a token stands in the training text."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mixlm.analysis.style import INK, PALETTE, Png, figure, plain, png

NEVER = 0.5  # Ours: where a token that training never shows stands on a logarithmic axis
BINS = 8  # Ours: equal shares of the text, each of some thousand tokens in the validation of a small run


@dataclass(frozen=True)
class FrequencyBins:
    """Tokens of a text in bins of equal numbers of tokens, from the rarest to the most frequent."""

    of_token: Int[np.ndarray, " N"]
    middle: Float[np.ndarray, " B"]  # the geometric mean of the bin's counts

    @classmethod
    def of(cls, counts: Int[np.ndarray, " N"], bins: int = BINS) -> "FrequencyBins":
        """Bins by how often each token of the text stands in the training text; equal counts share a bin."""
        order = np.sort(counts)
        edges = np.unique(order[np.linspace(0, len(order), bins, endpoint=False).astype(int)])
        place = np.searchsorted(edges, counts, side="right") - 1
        logs = np.log(np.maximum(counts, NEVER))
        sums, sizes = np.bincount(place, logs, len(edges)), np.bincount(place, minlength=len(edges))
        return cls(place, np.exp(sums / np.maximum(sizes, 1)))

    def mean(self, values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " B"]:
        """The mean of a figure in each bin."""
        size = len(self.middle)
        return np.bincount(self.of_token, values, size) / np.maximum(np.bincount(self.of_token, minlength=size), 1)


def frequency_figure(
    losses: Mapping[str, Float[np.ndarray, " N"]], counts: Int[np.ndarray, " N"], bins: int = BINS
) -> Png:
    """The mean loss of rare and frequent tokens for each run and, of several, each less the first.

    `losses` are nats of the same N tokens by the run's name, `counts` how often each stands in the training text.
    """
    found = FrequencyBins.of(counts, bins)
    several = len(losses) > 1
    drawn = figure(9.6 if several else 5.4, 3.8)
    grid = drawn.subplots(1, 2 if several else 1, squeeze=False)[0]
    first = found.mean(next(iter(losses.values())))
    for number, (name, nats) in enumerate(losses.items()):
        mean, style = found.mean(nats), {"color": PALETTE[number % len(PALETTE)], "marker": "o", "markersize": 4}
        grid[0].plot(found.middle, mean, label=name, **style)
        if several:
            grid[1].plot(found.middle, mean - first, **style)
    for axes in grid:
        axes.set_xscale("log")
        axes.set_xlabel("occurrences of the token in the training text", color=INK)
        plain(axes)
    grid[0].set_ylabel("nats per token", color=INK)
    if several:
        grid[1].set_ylabel(f"difference to {next(iter(losses))}", color=INK)
    grid[0].legend(frameon=False, fontsize=9)
    return png(drawn)
