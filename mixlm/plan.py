"""What a run will do, said before it does it: sizes, data, repeats, stages with their FLOPs, devices, places."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mixlm.accounting import flops_by_part, model_flops
from mixlm.axes import Layout, under
from mixlm.checkpoint import size_in_bytes
from mixlm.chips import chip
from mixlm.compiled import Executables
from mixlm.data.stream import StreamedData
from mixlm.errors import UserError
from mixlm.evaluate import Validation, frequency_bands
from mixlm.origin import Origin
from mixlm.partitioning import (
    batch_sharding,
    bytes_per_device,
    check_batch,
    check_lengths,
    check_networks,
    held_rows,
    replicated,
)
from mixlm.recipe import Recipe
from mixlm.samples import BLOCK, reading, shown
from mixlm.step import Step, initial_state, row_keys


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
    origin: Origin | None = None

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
        """As `flops_until`, without what `accounting.model_flops` leaves out."""
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
        return {each: (flops_by_part(found, networks), model_flops(found, networks)) for each, found in scopes.items()}

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
    recipe: Recipe, data: Any, first: int = 0, origin: Origin | None = None, devices: list[Any] | None = None
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
    step = under(layout, Step(recipe.modules, recipe.optimizer, recipe.microbatches))
    validation = under(layout, Validation(recipe.modules, recipe.frequency_bands))
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
        recipe.check_best(reported(planned))
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


def summary(plan: Plan) -> list[str]:
    """The lines that a run opens with."""
    recipe = plan.recipe
    spans = recipe.stages.spans(recipe.steps)
    devices = plan.mesh.devices.flatten()
    axes = " x ".join(f"{name} {size}" for name, size in plan.mesh.shape.items())
    held = (size(bytes_per_device(part)) for part in (plan.state.params, plan.state.opt_state))
    rows = [("recipe", f"{recipe.name}, seed {recipe.seed}")]
    for name, module in recipe.networks.items():
        rows.append((name, f"{type(module).__name__}, {count(parameters(plan.state.params[name]))} parameters"))
    if plan.origin is not None:
        rows.append(("begins", plan.origin.described(recipe.identity())))
    elif recipe.init_from:
        rows.append(("began", f"with {recipe.init_from}"))
    rows += _data_rows(plan)
    rows += [
        (
            "rows",
            f"{recipe.batch_size} x {recipe.block_length} tokens a step -> "
            + ", ".join(f"{length} {name}" for name, length in recipe.lengths.items())
            + (f", in {recipe.microbatches} microbatches" if recipe.microbatches > 1 else ""),
        ),
    ]
    for stage, steps in spans:
        flops = plan.steps.matmul_flops(stage.objective)
        rows.append(
            (
                f"stage {stage.objective.name}",
                f"steps {stage.start + 1} to {stage.start + steps}, {count(flops)}FLOP a step, "
                f"{count(flops * steps)}FLOP in all",
            )
        )
    rows += [
        ("devices", f"{len(devices)} x {devices[0].device_kind}{_shared()}, mesh {axes}"),
        ("each holds", "{} of parameters, {} of the optimizer's state".format(*held)),
        ("run", f"{recipe.folder}"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def _shared() -> str:
    return f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""


def _data_rows(plan: Plan) -> list[tuple[str, str]]:
    if plan.data is None:
        tokens = plan.recipe.steps * plan.recipe.batch_size * plan.recipe.block_length
        return [("data", f"not here; the run reads {count(tokens)} tokens")]
    if isinstance(plan.data, StreamedData):
        return [("data", plan.data.said)]
    recipe, rows = plan.recipe, []
    counts = plan.train.counts(recipe.steps, recipe.batch_size)
    for part, walk, blocks in zip(plan.data.parts, plan.train.parts, counts):
        data, epochs = part.summary, walk.tokens_in(blocks) / walk.num_tokens
        share = f"{blocks / sum(counts):.2%} of the rows; " if len(counts) > 1 else ""
        rows += [
            (
                "data",
                f"{data.name}: {share}{data.documents['train']} documents with {count(data.tokens['train'])} tokens to "
                f"train on, {data.documents['validation']} with {count(data.tokens['validation'])} held out",
            ),
            (
                "unique",
                f"{count(walk.num_tokens)} tokens in {walk.num_documents} documents "
                f"(set {walk.fingerprint[:12]}), each seen {epochs:.2f} times",
            ),
        ]
    return rows


def explanation(plan: Plan) -> list[str]:
    """The summary, then checkpoint size and, where the text is here, memory and examples of every objective.

    Nothing is trained or written.
    """
    lines = [*summary(plan), "", f"checkpoint  {size(size_in_bytes(plan.state))}"]
    if plan.data is None:
        return lines
    for objective in plan.recipe.objectives:
        memory = plan.steps.memory(objective)
        lines.append(
            f"memory of {objective.name}  {size(memory.argument_size_in_bytes)} of state and batch, "
            f"{size(memory.temp_size_in_bytes)} of temporaries on each device"
        )
    for objective in plan.recipe.objectives:
        lines += ["", f"examples of {objective.name}"]
        lines += [BLOCK + line for line in example_lines(plan, objective)]
    return lines


def example_lines(plan: Plan, objective: Any, rows: int = 3) -> list[str]:
    """What the first validation rows look like under an objective, before any network has had a part in it."""
    batch = {"tokens": plan.validation[0]["tokens"][:rows]}
    found = shown(objective, None, row_keys(plan.recipe.seed, 0, len(batch["tokens"])), batch, plan.recipe.steps - 1)
    if found is None:
        return ["(this objective shows no examples)"]
    lines = []
    for row in range(len(batch["tokens"])):
        for index, line in enumerate(reading(plan.data.vocabulary, *found, row)):
            lines.append(f"{row + 1 if index == 0 else ' '}  {line}")
    return lines


def parameters(tree: Any) -> int:
    """How many numbers a tree of arrays holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count(number: float) -> str:
    """A number with four figures and a prefix of a thousand's power: 4210000 -> '4.21 M'."""
    return _scaled(number, 1000, ("", "k", "M", "G", "T", "P", "E"))


def size(number: float) -> str:
    """Bytes with four figures: 2**20 -> '1 MiB'."""
    return _scaled(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    power = min(int(math.log(number, base)) if number >= 1 else 0, len(units) - 1)
    return f"{number / base**power:.4g} {units[power]}".rstrip()
