"""The programs of cells: steps, validation and the state of one cell, under `vmap` over a leading axis of cells."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixlm.data.loader.batches import as_batch
from mixlm.data.loader.quiet_grain import import_grain
from mixlm.network import LayeredNetwork
from mixlm.objectives.base import Objective
from mixlm.parallel.logical_axes import under
from mixlm.recipe import Recipe
from mixlm.training import traced_hparams
from mixlm.training.compiled_steps import donated
from mixlm.training.prepare import PreparedRun
from mixlm.training.step import TrainStep
from mixlm.training.together.rows import STEPS
from mixlm.training.validation import ValidationStep

AXIS = "cells"


class Programs:
    """The executables of cells that are alike, by objective and number of cells, compiled on a thread of their own.

    Each device has an equal number of the cells, as many devices as divide them. Attention is plain where it would be
    a kernel that does not batch.
    """

    def __init__(self, prepared: PreparedRun, walks: int):
        recipe, self._prepared, self._walks = prepared.recipe, prepared, walks
        modules = tuple((name, _batching(module)) for name, module in recipe.modules)
        # One device of the layout stands for each: a cell's step is not cut.
        step = TrainStep(modules, recipe.optimizer, recipe.microbatches)
        self._step, _ = traced_hparams.hoist(under(prepared.layout, step))
        self._validation = under(prepared.layout, ValidationStep(modules, recipe.frequency_bands))
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self._compiled: dict[Any, Future[Any]] = {}
        self._names: dict[Any, tuple[str, ...]] = {}

    # Places

    def mesh(self, count: int) -> Mesh:
        """The devices of `count` cells."""
        devices = jax.devices()
        size = next(size for size in range(len(devices), 0, -1) if count % size == 0)
        return jax.make_mesh((size,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices[:size])

    def cut(self, count: int) -> NamedSharding:
        """Cells over their devices."""
        return NamedSharding(self.mesh(count), PartitionSpec(AXIS))

    def whole(self, count: int) -> NamedSharding:
        """One copy on each of their devices."""
        return NamedSharding(self.mesh(count), PartitionSpec())

    def numbers(self, recipes: Sequence[Recipe], objective: Callable[[Recipe], Objective]) -> Any:
        """The traced numbers of each cell's optimizer and objective, a float32 array for each."""
        return self._stacked(
            [
                (*traced_hparams.hoist(TrainStep((), recipe.optimizer))[1], *traced_hparams.hoist(objective(recipe))[1])
                for recipe in recipes
            ]
        )

    def validation_numbers(self, objectives: Sequence[Objective]) -> Any:
        """The traced numbers of each cell's validated objective."""
        return self._stacked([traced_hparams.hoist(objective)[1] for objective in objectives])

    def _stacked(self, rows: Sequence[Sequence[float]]) -> Any:
        place = self.cut(len(rows))
        return tuple(jax.device_put(np.asarray(column, np.float32), place) for column in zip(*rows, strict=True))

    def integers(self, numbers: Sequence[int]) -> jax.Array:
        """An int32 for each cell."""
        return jax.device_put(np.asarray(numbers, np.int32), self.cut(len(numbers)))

    # Steps

    def steps(self, objective: Objective, count: int) -> Future[Any]:
        """Compiles `advance(states, walks, seeds, ends, numbers, rows, first, steps)` for `count` cells.

        It takes `steps` steps from step `first` on, and returns the states with the metrics [STEPS, cells, names]. A
        cell is left as it is at steps that are not its next one, and from the step in `ends` on. `walks` are the
        numbers of the cells' rows in `rows` (see `Rows`).
        """
        static, own = traced_hparams.hoist(objective)
        return self._submit(("steps", static, count), lambda: self._compile_steps(static, len(own), count))

    def names(self, objective: Objective) -> tuple[str, ...]:
        """The names of the metrics of a compiled step."""
        return self._names[traced_hparams.hoist(objective)[0]]

    def _compile_steps(self, static: Objective, traced: int, count: int) -> Any:
        recipe, cut, whole = self._prepared.recipe, self.cut(count), self.whole(count)
        length = recipe.before + recipe.block_length
        dtype = np.uint16 if recipe.tokens.vocab_size <= 2**16 else np.int32
        rows = jax.ShapeDtypeStruct((STEPS, self._walks, recipe.batch_size, length), dtype, sharding=whole)
        whole_number = jax.ShapeDtypeStruct((), np.int32, sharding=whole)
        integers = jax.ShapeDtypeStruct((count,), np.int32, sharding=cut)
        own = len(traced_hparams.hoist(TrainStep((), recipe.optimizer))[1])
        numbers = tuple(jax.ShapeDtypeStruct((count,), np.float32, sharding=cut) for _ in range(own + traced))
        states = self.states(count)
        advance = partial(self._advance, static, own)
        if cut.mesh.size > 1:
            cells, all_of_it = PartitionSpec(AXIS), PartitionSpec()
            advance = jax.shard_map(
                advance,
                mesh=cut.mesh,
                in_specs=(cells, cells, cells, cells, cells, all_of_it, all_of_it, all_of_it),
                out_specs=(cells, PartitionSpec(None, AXIS)),
                check_vma=False,
            )
        jitted = jax.jit(advance, donate_argnums=donated())
        arguments = (states, integers, integers, integers, numbers, rows, whole_number, whole_number)
        return jitted.lower(*arguments).compile()

    def _advance(self, static, own, states, walks, seeds, ends, numbers, rows, first, steps):
        before = self._prepared.recipe.before

        def one(state, walk, seed, numbers, rows):
            batch = as_batch(rows[walk].astype(jnp.int32), before)
            step = traced_hparams.bind(self._step, numbers[:own])
            state, metrics = step(state, batch, seed, traced_hparams.bind(static, numbers[own:]))
            self._names[static] = tuple(sorted(metrics))
            return state, jnp.stack([metrics[name].astype(jnp.float32) for name in sorted(metrics)])

        # Jitted inside, so that asking for the shape of the metrics and the loop trace it once.
        cells = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, None)))
        found = jax.eval_shape(cells, states, walks, seeds, numbers, rows[0])[1]

        def body(index, carry):
            states, metrics = carry
            step = first + index
            new, figures = cells(states, walks, seeds, numbers, rows[step % STEPS])
            taken = (states.step == step) & (step < ends)

            def chosen(new, old):
                return jnp.where(taken.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            return jax.tree.map(chosen, new, states), metrics.at[index].set(figures)

        return jax.lax.fori_loop(0, steps, body, (states, jnp.zeros((STEPS, *found.shape), found.dtype)))

    # Validation

    def validation(self, objective: Objective, count: int) -> Future[Any]:
        """Compiles `validate(params, seeds, numbers, batches, step, bands)` for `count` cells.

        It returns the total and the count of each term, of each batch and cell, [batches, cells].
        """
        static, own = traced_hparams.hoist(objective)
        return self._submit(("validation", static, count), lambda: self._compile_validation(static, len(own), count))

    def _compile_validation(self, static: Objective, traced: int, count: int) -> Any:
        recipe, cut, whole = self._prepared.recipe, self.cut(count), self.whole(count)
        shape = (recipe.eval_batches, recipe.batch_size)
        batches = {"tokens": jax.ShapeDtypeStruct((*shape, recipe.block_length), np.int32, sharding=whole)}
        if recipe.before:
            batches["previous"] = jax.ShapeDtypeStruct(shape, np.int32, sharding=whole)
        number = jax.ShapeDtypeStruct((), np.int32, sharding=whole)
        bands = jax.ShapeDtypeStruct((recipe.tokens.vocab_size,), np.int32, sharding=whole)
        seeds = jax.ShapeDtypeStruct((count,), np.int32, sharding=cut)
        numbers = tuple(jax.ShapeDtypeStruct((count,), np.float32, sharding=cut) for _ in range(traced))
        validate = partial(self._validate, static)
        if cut.mesh.size > 1:
            cells, all_of_it = PartitionSpec(AXIS), PartitionSpec()
            validate = jax.shard_map(
                validate,
                mesh=cut.mesh,
                in_specs=(cells, cells, cells, all_of_it, all_of_it, all_of_it),
                out_specs=PartitionSpec(None, AXIS),
                check_vma=False,
            )
        return jax.jit(validate).lower(self.states(count).params, seeds, numbers, batches, number, bands).compile()

    def _validate(self, static, params, seeds, numbers, batches, step, bands):
        def one(params, seed, numbers, batch, index):
            objective = traced_hparams.bind(static, numbers)
            terms = self._validation(params, batch, seed, index, step, bands, objective)
            return {name: (term.total, term.count) for name, term in terms.items()}

        cells = jax.vmap(one, in_axes=(0, 0, 0, None, None))
        index = jnp.arange(self._prepared.recipe.eval_batches)
        return jax.lax.map(lambda each: cells(params, seeds, numbers, *each), (batches, index))

    # States

    def states(self, count: int) -> Any:
        """The shapes of the states of `count` cells, with their shardings."""
        place = self.cut(count)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype, sharding=place), self._prepared.shapes
        )

    def state(self, states: Any, index: int) -> Any:
        """The state of one of the cells."""
        count = len(states.step)
        return self._pick(count)(states, np.int32(index))

    def _pick(self, count: int) -> Any:
        def pick(states, index):
            return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), states)

        def compiled():
            index = jax.ShapeDtypeStruct((), np.int32)
            return jax.jit(pick, out_shardings=self.whole(count)).lower(self.states(count), index).compile()

        return self._submit(("pick", count), compiled).result()

    def _submit(self, key: Any, compiled: Callable[[], Any]) -> Future[Any]:
        if key not in self._compiled:
            import_grain()
            self._compiled[key] = self._pool.submit(compiled)
        return self._compiled[key]

    def close(self) -> None:
        """Cancels compilations that have not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _batching(module: nn.Module) -> nn.Module:
    """The network with plain attention in place of a kernel that would not batch over cells."""
    if not isinstance(module, LayeredNetwork) or module.execution.attention != "auto":
        return module
    return module.clone(execution=replace(module.execution, attention="plain"))
