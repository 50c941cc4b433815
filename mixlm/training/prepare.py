"""What a run will do, said before it does it: sizes, data, repeats, stages with their FLOPs, devices, places."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mixlm.checkpoints.warm_start import WarmStart
from mixlm.errors import UserError, nearest
from mixlm.parallel.logical_axes import Layout, under
from mixlm.parallel.mesh import batch_sharding, check_batch, check_lengths, check_networks, held_rows, replicated
from mixlm.perf.accounting import flops_by_part, mfu_flops
from mixlm.perf.chips import chip
from mixlm.recipe import Recipe
from mixlm.training.executables import Executables
from mixlm.training.step import TrainStep, initial_state
from mixlm.training.validation import ValidationStep, frequency_bands


@dataclass(frozen=True)
class Plan:
    """A recipe with its data (None where the text is not here), its mesh and its steps, ready to run."""

    recipe: Recipe
    data: Any
    train: Any  # the walk over its training blocks
    layout: Layout
    create: Any
    state: Any
    steps: Executables
    validations: Executables
    origin: WarmStart | None = None

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        return self.layout.mesh

    @property
    def fingerprints(self) -> dict[str, str]:
        """What makes the data and the vocabulary what they are; {} where they are not here."""
        if self.data is None:
            return {}
        found = {"data": self.train.fingerprint, "vocabulary": self.data.vocabulary.fingerprint}
        if len(self.train.parts) > 1:
            sources = zip(self.data.parts, self.train.parts)
            found |= {f"data/{part.name}": walk.fingerprint for part, walk in sources}
        return found

    @property
    def epochs(self) -> float:
        """How often each unique token will be seen, on average over the sources."""
        return self.train.figures(self.recipe.steps, self.recipe.batch_size)["epoch"]

    @cached_property
    def band_of(self) -> jax.Array:
        """The frequency band of every token, on every device; zeros where no bands were asked for."""
        recipe = self.recipe
        if not recipe.frequency_bands:
            return self.everywhere(np.zeros(recipe.tokens.vocab_size, np.int32))
        return self.everywhere(frequency_bands(self.data.token_counts(), recipe.frequency_bands))

    @cached_property
    def validation(self) -> list[dict[str, np.ndarray]]:
        """EVAL_BATCHES batches of rows, spread evenly over the split; a small split is gone through again."""
        recipe = self.recipe
        chosen = self.data.validation_rows(recipe.block_length, recipe.eval_batches * recipe.batch_size)
        return [{"tokens": rows} for rows in chosen.reshape(recipe.eval_batches, recipe.batch_size, -1)]

    def flops_until(self, step: int) -> float:
        """The matmul FLOPs of the first `step` steps, summed over their stages."""
        return sum(self.steps.matmul_flops(objective) * count for objective, count in self._done(step))

    def flops_by_stage(self, step: int) -> dict[str, dict[str, float]]:
        """`flops_until` by objective and part (see `accounting.part_of`), of the stages that have begun."""
        found: dict[str, dict[str, float]] = {}
        for objective, count in self._done(step):
            (parts, _), before = self._account[objective], found.get(objective.name, {})
            found[objective.name] = {part: before.get(part, 0.0) + flops * count for part, flops in parts.items()}
        return found

    def model_flops_until(self, step: int) -> float:
        """As `flops_until`, without what `accounting.mfu_flops` leaves out."""
        return sum(self._account[objective][1] * count for objective, count in self._done(step))

    @property
    def peak_flops(self) -> float | None:
        """The peak FLOP/s of all devices together (bfloat16, dense); None where it is not known, such as on a CPU."""
        devices = self.mesh.devices.flatten()
        known = chip(devices[0].device_kind)
        return None if known is None else known.flops * len(devices)

    def _done(self, step: int) -> list[tuple[Any, int]]:
        """Each stage's objective and how many of the first `step` steps it has."""
        spans = self.recipe.stages.spans(self.recipe.steps)
        return [(stage.objective, min(step - stage.start, count)) for stage, count in spans if step > stage.start]

    @cached_property
    def _account(self) -> dict[Any, tuple[dict[str, float], float]]:
        """Of each objective's step the FLOPs by part, and those that utilisation counts."""
        networks = tuple(self.recipe.networks)
        scopes = {objective: self.steps.flops_by_scope(objective) for objective in self.recipe.objectives}
        return {each: (flops_by_part(found, networks), mfu_flops(found, networks)) for each, found in scopes.items()}

    @cached_property
    def rows(self) -> tuple[int, int]:
        """Which run of a batch's rows this process reads: (index, how many equal runs there are)."""
        return held_rows(self.layout, jax.process_index())

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """The global batch on the mesh, of which this process gives its run of the rows, or all of them."""
        sharding, size = batch_sharding(self.layout), self.recipe.batch_size

        def placed(rows: np.ndarray) -> jax.Array:
            first = 0 if len(rows) == size else self.rows[0] * len(rows)

            def part(where: Any) -> np.ndarray:
                start, stop, _ = where[0].indices(size)
                return rows[start - first : stop - first]

            return jax.make_array_from_callback((size, *rows.shape[1:]), sharding, part)

        return {name: placed(rows) for name, rows in batch.items()}

    def everywhere(self, value: np.ndarray) -> jax.Array:
        """An array on every device; every process gives the same one."""
        return jax.make_array_from_callback(
            value.shape, replicated(self.layout), lambda where: np.asarray(value[where])
        )

    def close(self) -> None:
        """Stops compiling ahead."""
        self.steps.close()
        self.validations.close()

    def number(self, value: int) -> jax.Array:
        """An int32 on every device."""
        return self.everywhere(np.asarray(value, np.int32))


def plan(
    recipe: Recipe, data: Any, first: int = 0, origin: WarmStart | None = None, devices: list[Any] | None = None
) -> Plan:
    """Checks the recipe against its devices, its vocabulary and its origin, and begins to compile what comes after
    step `first`, or after the origin's. `devices` are all of this machine's by default.
    """
    if data is not None and data.vocabulary.token_ids != recipe.tokens:
        raise UserError(f"The recipe's TOKENS are {recipe.tokens}, and its vocabulary has {data.vocabulary.token_ids}.")
    train = rows_of_run = None
    if data is not None:
        train = data.train(recipe.block_length, recipe.seed, recipe.epochs)
        rows_of_run = data.rows_of(recipe.block_length, recipe.epochs)
    recipe = recipe.settled(None if data is None else data.summary.unique_tokens, rows_of_run)
    layout = recipe.partitioning.layout(devices)
    check_batch(
        layout, recipe.batch_size // recipe.microbatches, "A microbatch" if recipe.microbatches > 1 else "A batch"
    )
    check_lengths(layout, recipe.lengths)
    check_networks(layout, dict(recipe.modules))
    create, state = initial_state(dict(recipe.modules), recipe.optimizer, recipe.seed, layout)
    whole = replicated(layout)
    rows = jax.ShapeDtypeStruct((recipe.batch_size, recipe.block_length), np.int32, sharding=batch_sharding(layout))
    number = jax.ShapeDtypeStruct((), np.int32, sharding=whole)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = under(layout, TrainStep(recipe.modules, recipe.optimizer, recipe.microbatches))
    validation = under(layout, ValidationStep(recipe.modules, recipe.frequency_bands))
    bands = jax.ShapeDtypeStruct((recipe.tokens.vocab_size,), np.int32, sharding=whole)
    batch = {"tokens": rows}
    planned = Plan(
        recipe=recipe,
        data=data,
        train=train,
        layout=layout,
        create=create,
        state=state,
        steps=Executables(step, state, batch, number, donate_argnums=0, out_shardings=(shardings, whole)),
        validations=Executables(validation, state.params, batch, number, number, number, bands, out_shardings=whole),
        origin=origin,
    )
    if origin is not None:
        origin.check(planned.fingerprints, recipe.steps)
        first = max(first, origin.first)
    if recipe.best_metric is not None:
        _check_best(recipe, reported(planned))
    for objective in recipe.objectives:
        planned.steps.trace(objective)
    for stage, steps in recipe.stages.spans(recipe.steps):
        if stage.start + steps > first and data is not None:
            planned.steps.prepare(stage.objective)
    return planned


def reported(plan: Plan) -> list[str]:
    """The names of the figures of validation."""
    traces = [plan.validations.trace(objective) for objective in plan.recipe.validated]
    # A dict's tree knows its keys.
    return list(dict.fromkeys(name for trace in traces for name in trace.result().out_tree.node_data()[1]))


def _check_best(recipe: Recipe, reported: Sequence[str]) -> None:
    """Raises UserError where `best_metric` is no figure that validation reports, or never one of a checkpoint."""
    if recipe.best_metric not in reported:
        raise UserError(
            f"BEST_METRIC = {recipe.best_metric!r} is no figure of this run's validation, which reports "
            f"{', '.join(name for name in reported if '/' not in name)}.{nearest(recipe.best_metric, reported)}"
        )
    meet = math.lcm(recipe.checkpoint_period, recipe.eval_period)
    if meet > recipe.steps:
        raise UserError(
            f"No checkpoint before the last would be validated, so BEST_METRIC has none to choose from: "
            f"CHECKPOINT_PERIOD = {recipe.checkpoint_period} and EVAL_PERIOD = {recipe.eval_period} first meet at step "
            f"{meet} of {recipe.steps}."
        )
