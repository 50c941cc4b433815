"""Replaced-token detection, looked at: the discriminator's belief of each token, the generator's samples marked."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from mixlm.errors import UserError
from mixlm.network import bind
from mixlm.objectives.base import Detects
from mixlm.recipe import Recipe
from mixlm.reports.shading import ShadedToken, ShadedTokens
from mixlm.rng import row_keys
from mixlm.training.examples import spaced


def beliefs(
    recipe: Recipe, vocabulary: Any, batch: Mapping[str, np.ndarray], params: Mapping[str, Any]
) -> ShadedTokens:
    """Each row as the encoder reads it, shaded by the probability that a token was replaced; replaced ones are marked.

    Raises UserError where no stage of the recipe has a discriminator.
    """
    found = [objective for objective in recipe.objectives if isinstance(objective, Detects)]
    if not found:
        names = ", ".join(objective.name for objective in recipe.objectives)
        raise UserError(f"No objective of {recipe.name} detects replaced tokens: it trains {names}.")
    objective, rows = found[0], batch["tokens"]
    params = {name: params[name] for name in objective.networks}
    keys = row_keys(recipe.seed, 0, len(rows))
    corrupted, chance = jax.device_get(_judged(objective, recipe.modules, params, keys, dict(batch)))
    read = np.asarray(corrupted.example.encoder_input_tokens)
    return ShadedTokens(
        tuple(_row(vocabulary, recipe, *each) for each in zip(read, corrupted.before, corrupted.replaced, chance)),
        "probability of having been replaced",
        "replaced by the generator",
    )


@partial(jax.jit, static_argnums=(0, 1))
def _judged(objective, modules, params, keys, batch):
    return objective.judged(bind(dict(modules), params), keys, batch)


def _row(
    vocabulary: Any, recipe: Recipe, read: np.ndarray, before: np.ndarray, replaced: np.ndarray, chance: np.ndarray
) -> tuple[ShadedToken, ...]:
    ids = recipe.tokens
    return tuple(
        ShadedToken(
            spaced(vocabulary, [int(token)], ids), float(p), bool(new), vocabulary.decode([int(old)]) if new else ""
        )
        for token, old, new, p in zip(read, before, replaced, chance)
        if old != ids.pad
    )
