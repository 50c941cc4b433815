"""Assembles a run: a recipe with its data, its mesh, its compiled steps and its place to begin."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from mixlm.checkpoints.warm_start import WarmStart
from mixlm.data.loader.batches import as_batch
from mixlm.errors import UserError
from mixlm.evaluation.tasks.in_training import RunJudge, check_settings, is_judged
from mixlm.parallel.logical_axes import Layout
from mixlm.parallel.mesh import (
    batch_sharding,
    check_batch,
    check_lengths,
    check_networks,
    held_rows,
    replicated,
)
from mixlm.perf.accounting import flops_by_part, mfu_flops
from mixlm.perf.chips import chip
from mixlm.perf.memory import Need, check_fits
from mixlm.recipe import Recipe
from mixlm.training.best_metric import check_best, check_reported
from mixlm.training.compiled_steps import executables_of
from mixlm.training.executables import Executables
from mixlm.training.held import least_held, memory_of
from mixlm.training.initial_state import initial_state, rule_numbers
from mixlm.training.named import names_of
from mixlm.training.step import TrainState
from mixlm.training.validation import frequency_bands, mean_terms


@dataclass(frozen=True)
class PreparedRun:
    """A recipe in steps, with its data (None where the text is not here), its mesh and its executables.

    `train_blocks` are the blocks of the train split in the order in which they are trained on; `init_state()` makes the
    first state on the mesh, of which `shapes` has the shapes and shardings. `train_step[objective]` and
    `validation_step[objective]` are executables. `names` are those of the checkpoints that stay for good, by step.
    """

    recipe: Recipe
    data: Any
    train_blocks: Any
    layout: Layout
    init_state: partial[TrainState]
    shapes: Any
    train_step: Executables
    validation_step: Executables
    warm_start: WarmStart | None = None
    names: Mapping[int, Sequence[str]] = field(default_factory=dict)

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        return self.layout.mesh

    @property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of the training tokens (of each part, too, in a mixture) and of the vocabulary; {} without data."""
        if self.data is None:
            return {}
        found = {"data": self.train_blocks.fingerprint, "vocabulary": self.data.vocabulary.fingerprint}
        if len(self.train_blocks.parts) > 1:
            parts = zip(self.data.parts, self.train_blocks.parts)
            found |= {f"data/{part.name}": blocks.fingerprint for part, blocks in parts}
        return found

    # Validation

    @cached_property
    def band_of(self) -> Int[Array, " V"]:
        """The frequency band of every token, on every device; zeros where no bands were asked for."""
        recipe = self.recipe
        if not recipe.frequency_bands:
            return self.replicate(np.zeros(recipe.tokens.vocab_size, np.int32))
        return self.replicate(frequency_bands(self.data.token_counts(), recipe.frequency_bands))

    @cached_property
    def validation_batches(self) -> list[dict[str, np.ndarray]]:
        """EVAL_BATCHES batches of rows, spread evenly over the split; a small split is gone through again."""
        recipe = self.recipe
        count = recipe.eval_batches * recipe.batch_size
        chosen = self.data.validation_rows(recipe.block_length, count, before=recipe.before)
        return [as_batch(rows, recipe.before) for rows in chosen.reshape(recipe.eval_batches, recipe.batch_size, -1)]

    def validate(self, params: Any, step: int) -> dict[str, float]:
        """The mean terms of each validated objective after `step` steps, on the same rows with the same noise.

        They are named `validation/TERM`. Where two objectives have a term of one name, that of the later stage stands:
        the plain objective follows the mixed one.
        """
        found: dict[str, float] = {}
        for objective in self.recipe.validated:
            run = self.validation_step[objective]
            terms = [
                run(params, self.shard_batch(batch), self.seed, self.scalar(index), self.scalar(step), self.band_of)
                for index, batch in enumerate(self.validation_batches)
            ]
            found |= {f"validation/{name}": value for name, value in mean_terms(terms).items()}
        if self.judge is not None:
            found |= {f"validation/{name}": value for name, value in self.judge(params, step).items()}
            if self.recipe.best_metric is not None:
                reported = [name.removeprefix("validation/") for name in found]
                check_reported(self.recipe.best_metric, reported)
        return found

    @cached_property
    def judge(self) -> RunJudge | None:
        """The supervised tasks of the data, judged by their own metrics; None where none is."""
        if self.data is None or not is_judged(self.recipe):
            return None
        return RunJudge.of(self.recipe, self.layout, self.data)

    # FLOPs

    def flops_until(self, step: int) -> float:
        """The matmul FLOPs of the first `step` steps, summed over their stages."""
        return sum(self._flops[objective][2] * count for objective, count in self._counts(step))

    def flops_by_stage(self, step: int) -> dict[str, dict[str, float]]:
        """`flops_until` by objective and part (see `accounting.part_of`), of the stages that have begun."""
        found: dict[str, dict[str, float]] = {}
        for objective, count in self._counts(step):
            (parts, *_), before = self._flops[objective], found.get(objective.name, {})
            found[objective.name] = {part: before.get(part, 0.0) + flops * count for part, flops in parts.items()}
        return found

    def model_flops_until(self, step: int) -> float:
        """`flops_until` without what `accounting.mfu_flops` leaves out."""
        return sum(self._flops[objective][1] * count for objective, count in self._counts(step))

    @property
    def peak_flops(self) -> float | None:
        """The peak FLOP/s of all devices together (bfloat16, dense); None where it is not known, such as on a CPU."""
        devices = self.mesh.devices.flatten()
        known = chip(devices[0].device_kind)
        return None if known is None else known.flops * len(devices)

    def _counts(self, step: int) -> list[tuple[Any, int]]:
        """The objective of each stage, with the number of steps that it has among the first `step`."""
        spans = self.recipe.stages.spans(self.recipe.steps)
        return [(stage.objective, min(step - stage.first, count)) for stage, count in spans if step > stage.first]

    @cached_property
    def _flops(self) -> dict[Any, tuple[dict[str, float], float, float]]:
        """The FLOPs of each objective's step by part, those that count for utilisation, and all together."""
        networks = tuple(self.recipe.networks)
        scopes = {objective: self.train_step.flops_by_scope(objective) for objective in self.recipe.objectives}
        return {
            each: (flops_by_part(found, networks), mfu_flops(found, networks), math.fsum(found.values()))
            for each, found in scopes.items()
        }

    def step_held(self, objective: Any) -> Need:
        """The compiler's account of a step's memory on each device; waits for the compilation."""
        memory = self.train_step.memory(objective)
        held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        return Need("its arguments and temporaries", held, "lower BATCH_SIZE, or raise MICROBATCHES")

    # Arrays on the mesh

    @cached_property
    def host_rows(self) -> tuple[int, int]:
        """The share of a batch's rows that this process reads: (index, number of equal shares)."""
        return held_rows(self.layout, jax.process_index())

    def shard_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """The global batch on the mesh, from this process's share of the rows, or from all of them."""
        sharding, size = batch_sharding(self.layout), self.recipe.batch_size

        def sharded(rows: np.ndarray) -> jax.Array:
            first = 0 if len(rows) == size else self.host_rows[0] * len(rows)

            def part(where: Any) -> np.ndarray:
                start, stop, _ = where[0].indices(size)
                return rows[start - first : stop - first]

            return jax.make_array_from_callback((size, *rows.shape[1:]), sharding, part)

        return {name: sharded(rows) for name, rows in batch.items()}

    def replicate(self, value: np.ndarray) -> jax.Array:
        """An array on every device; every process gives the same one."""
        return jax.make_array_from_callback(
            value.shape, replicated(self.layout), lambda where: np.asarray(value[where])
        )

    def scalar(self, value: int) -> jax.Array:
        """An int32 on every device."""
        return self.replicate(np.asarray(value, np.int32))

    @cached_property
    def seed(self) -> jax.Array:
        """The recipe's seed on every device."""
        return self.scalar(self.recipe.seed)

    def close(self) -> None:
        """Stops compiling ahead."""
        self.train_step.close()
        self.validation_step.close()


def prepare(
    recipe: Recipe,
    data: Any,
    done: int = 0,
    warm_start: WarmStart | None = None,
    devices: list[Any] | None = None,
    ahead: bool = True,
) -> PreparedRun:
    """Checks the recipe against its data, devices and warm start, and compiles in the background what it will run.

    `done` steps are those of the newest checkpoint: stages before it are not compiled. `data` is None where the text is
    not here; then nothing is, nor is it without `ahead`. `devices` are all of this machine's by default.
    """
    layout = _checked_layout(recipe, devices)
    check_settings(recipe)
    init_state, shapes = initial_state(dict(recipe.modules), recipe.optimizer, recipe.seed, layout)
    if data is not None:
        # Before a row is read: shapes tell what is held at once, at least.
        check_fits("This run", least_held(recipe, layout, shapes), *memory_of(layout))
    recipe, blocks = _settled(recipe, data)
    names = names_of(recipe, data, blocks)
    train_step, validation_step = executables_of(recipe, layout, shapes)
    prepared = PreparedRun(
        recipe, data, blocks, layout, init_state, shapes, train_step, validation_step, warm_start, names
    )
    if warm_start is not None:
        warm_start.check(prepared.fingerprints, recipe.steps)
        done = max(done, warm_start.first)
    if recipe.best_metric is not None:
        check_best(recipe, recipe.best_metric, _reported(prepared))
    # Tracing gives the FLOPs of the summary; compiling takes longer, so it begins now and the first step waits for it.
    for objective in recipe.objectives:
        train_step.trace(objective)
    for stage, steps in recipe.stages.spans(recipe.steps):
        if stage.first + steps > done and data is not None and ahead:
            train_step.compile(stage.objective)
    return prepared


def prepare_like(prepared: PreparedRun, recipe: Recipe, data: Any, warm_start: WarmStart | None) -> PreparedRun:
    """Another run, whose programs differ from those of `prepared` in traced numbers alone: nothing is traced anew."""
    recipe, blocks = _settled(recipe, data)
    init_state = partial(prepared.init_state.func, np.int32(recipe.seed), rule_numbers(recipe.optimizer))
    twin = replace(
        prepared, recipe=recipe, data=data, train_blocks=blocks, init_state=init_state, warm_start=warm_start,
        names=names_of(recipe, data, blocks),
    )  # fmt: skip
    if warm_start is not None:
        warm_start.check(twin.fingerprints, recipe.steps)
    if recipe.best_metric is not None:
        check_best(recipe, recipe.best_metric, _reported(twin))
    return twin


def _settled(recipe: Recipe, data: Any) -> tuple[Recipe, Any]:
    """(The recipe, its blocks): the size of the data settles the length of the run, and every stage and schedule."""
    if data is None:
        return recipe.settled(None), None
    if data.vocabulary.token_ids != recipe.tokens:
        raise UserError(f"The recipe's TOKENS are {recipe.tokens}, and its vocabulary has {data.vocabulary.token_ids}.")
    blocks = data.train(recipe.block_length, recipe.seed, recipe.epochs)
    rows = data.rows_of(recipe.block_length, recipe.epochs)
    return recipe.settled(data.summary.unique_tokens, rows), blocks


def _checked_layout(recipe: Recipe, devices: list[Any] | None) -> Layout:
    layout = recipe.partitioning.layout(devices)
    rows, what = recipe.batch_size // recipe.microbatches, "A microbatch" if recipe.microbatches > 1 else "A batch"
    check_batch(layout, rows, what)
    check_lengths(layout, recipe.lengths)
    check_networks(layout, dict(recipe.modules))
    return layout


def _reported(prepared: PreparedRun) -> list[str]:
    """The names of the figures of validation, as far as they can be told beforehand."""
    traces = [prepared.validation_step.trace(objective) for objective in prepared.recipe.validated]
    # A dict's tree knows its keys.
    names = list(dict.fromkeys(name for trace in traces for name in trace.result().out_tree.node_data()[1]))
    best = prepared.recipe.best_metric
    if best in names or prepared.judge is None:
        return names
    judged = prepared.judge.names()
    # What cannot be told is checked at the first validation.
    return names + ([best] if judged is None and best is not None else judged or [])
