"""Validation: the terms of an objective over fixed blocks with fixed noise."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mixlm.losses.score import token_costs
from mixlm.losses.terms import Term
from mixlm.network import bind
from mixlm.objectives.base import Objective, RowObjective
from mixlm.rng import row_keys


@dataclass(frozen=True)
class ValidationStep:
    """`validation(params, batch, seed, index, step, band_of, objective)`: the terms of batch `index` after `step`.

    `band_of` [V] holds the frequency band of every token; `bands` are the bands' shares, from the most frequent on.
    """

    modules: tuple[tuple[str, nn.Module], ...]
    bands: tuple[float, ...] = ()

    def __call__(
        self,
        params: Mapping[str, Any],
        batch: Mapping[str, Int[Array, "B ..."]],
        seed: Int[Array, ""],
        index: Int[Array, ""],
        step: Int[Array, ""],
        band_of: Int[Array, " V"],
        objective: Objective,
    ) -> dict[str, Term]:
        """Without dropout; the noise is a function of (seed, index, row) alone."""
        nets = bind(dict(self.modules), {name: params[name] for name in objective.networks})
        keys = row_keys(seed, index, next(iter(batch.values())).shape[0])
        terms = objective(nets, batch, keys, step)
        if not self.bands or not isinstance(objective, RowObjective):
            return terms
        example, net = objective.corrupt(keys, batch, step), nets[objective.networks[0]]
        targets, weights = example.decoder_target_tokens, example.decoder_loss_weights
        costs = token_costs(net.logits, net.hidden(example), targets) * weights
        for band, label in enumerate(band_labels(self.bands)):
            inside = band_of[targets] == band
            total, count = jnp.sum(costs * inside), jnp.sum(weights * inside)
            terms[f"{objective.name}/{label}"] = Term(total, count, 0.0)
        return terms


def band_labels(shares: tuple[float, ...]) -> list[str]:
    """The bands' names in logs: `top_80%`, `next_15%`, `rarest_5%`."""
    words = ["top", *["next"] * (len(shares) - 2), "rarest"][: len(shares)]
    ends = np.cumsum(shares)
    return [
        f"{word}_{share:.3g}%" if word != "next" or len(shares) == 3 else f"to_{end:.3g}%"
        for word, share, end in zip(words, 100 * np.asarray(shares), 100 * ends)
    ]


def frequency_bands(counts: Int[np.ndarray, " V"], shares: tuple[float, ...]) -> Int[np.ndarray, " V"]:
    """The band of every token: tokens by falling frequency fill the first band up to its share of the text, and so on.

    A token belongs where its first occurrence falls; one that does not occur is among the rarest.
    """
    order = np.argsort(-counts, kind="stable")
    before = (np.cumsum(counts[order]) - counts[order]) / max(counts.sum(), 1)
    bands = np.zeros(len(counts), np.int32)
    bands[order] = np.searchsorted(
        np.cumsum(shares)[:-1], before + 1e-9, side="right"
    )  # an end is met despite rounding
    return bands


def mean_terms(batches: Iterable[dict[str, Term]]) -> dict[str, float]:
    """Adds the terms of all batches, then divides."""
    sums: dict[str, Term] = {}
    for terms in batches:
        sums = {name: sums[name] + term if name in sums else term for name, term in terms.items()}
    return {name: float(term.value) for name, term in sums.items()}
