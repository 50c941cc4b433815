"""Validation: the terms of an objective over fixed blocks with fixed noise, next to what a unigram model would pay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Int

from mixlm.losses import Term
from mixlm.objectives.base import Objective, RowObjective
from mixlm.step import bind, row_keys


@dataclass(frozen=True)
class Validation:
    """`validation(params, batch, seed, index, objective)`: the terms of batch `index`, the objective static."""

    modules: tuple[tuple[str, nn.Module], ...]

    def __call__(
        self,
        params: Mapping[str, Any],
        batch: Mapping[str, Int[Array, "B L"]],
        seed: Int[Array, ""],
        index: Int[Array, ""],
        objective: Objective,
    ) -> dict[str, Term]:
        """Without dropout; the noise is a function of (seed, index, row) alone."""
        nets = bind(dict(self.modules), {name: params[name] for name in objective.networks})
        return objective(nets, batch, row_keys(seed, index, next(iter(batch.values())).shape[0]), index)


def mean_terms(batches: Iterable[dict[str, Term]]) -> dict[str, float]:
    """Adds the terms of all batches, then divides."""
    sums: dict[str, Term] = {}
    for terms in batches:
        sums = {name: sums[name] + term if name in sums else term for name, term in terms.items()}
    return {name: float(term.value) for name, term in sums.items()}


def unigram_entropy(objective: Any, batches: Iterable[Mapping[str, Any]], seed: int) -> float | None:
    """What the best model without context pays for the validation targets, in nats a token: their entropy.

    The targets are those that `Validation` scores, with the same noise; None for an objective that needs networks to
    make them.
    """
    if not isinstance(objective, RowObjective):
        return None
    targets = jax.jit(partial(_scored_targets, objective))
    counts: Any = np.zeros(0, np.int64)
    for index, batch in enumerate(batches):
        tokens, scored = targets(row_keys(seed, index, len(batch["tokens"])), batch)
        found = np.bincount(np.asarray(tokens)[np.asarray(scored)], minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _scored_targets(objective, keys, batch):
    example = objective.corrupt(keys, batch)
    return example.decoder_target_tokens, example.decoder_loss_weights > 0
