"""The executables of a run: its train step and its validation step, by the shapes and shardings of their arguments."""

from typing import Any

import jax
import numpy as np

from mixlm.parallel.logical_axes import Layout, under
from mixlm.parallel.mesh import batch_sharding, replicated
from mixlm.recipe import Recipe
from mixlm.training.executables import Executables
from mixlm.training.kernels import agree
from mixlm.training.step import TrainStep
from mixlm.training.validation import ValidationStep


def executables_of(
    recipe: Recipe, layout: Layout, shapes: Any, modules: Any = None, microbatches: int | None = None
) -> tuple[Executables, Executables]:
    """The train step and the validation step, by the shapes and shardings of their arguments.

    `modules` and `microbatches` are the recipe's, or others that compute the same.
    """
    modules, microbatches = modules or recipe.modules, microbatches or recipe.microbatches
    everywhere = replicated(layout)
    number = jax.ShapeDtypeStruct((), np.int32, sharding=everywhere)
    bands = jax.ShapeDtypeStruct((recipe.tokens.vocab_size,), np.int32, sharding=everywhere)
    rows = jax.ShapeDtypeStruct((recipe.batch_size, recipe.block_length), np.int32, sharding=batch_sharding(layout))
    batch, shardings = {"tokens": rows}, jax.tree.map(lambda leaf: leaf.sharding, shapes)
    if recipe.before:
        batch["previous"] = jax.ShapeDtypeStruct((recipe.batch_size,), np.int32, sharding=batch_sharding(layout))
    train = under(layout, TrainStep(modules, recipe.optimizer, microbatches))
    validation = under(layout, ValidationStep(modules, recipe.frequency_bands))
    agree(layout.mesh.devices.flat[0].platform, train, (shapes, batch, number), recipe.objectives)
    return (
        # (state, batch, seed) -> (state, metrics)
        Executables(train, shapes, batch, number, donate_argnums=donated(), out_shardings=(shardings, everywhere)),
        # (params, batch, seed, index, step, bands) -> terms
        Executables(validation, shapes.params, batch, number, number, number, bands, out_shardings=everywhere),
    )


def donated() -> tuple[int, ...]:
    """Donates the state, but not on CPUs before jax 0.10.

    On jaxlib 0.7.2 SpacTor's losses went wrong from its first update on; undonated they are those of 0.10 and 0.12.
    """
    return () if jax.default_backend() == "cpu" and jax.__version_info__ < (0, 10) else (0,)
