"""A run's steps compiled for TPUs that are not here: whether they fit, what they cost, how fast they can be at best."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mixlm.errors import UserError
from mixlm.network import LayeredNetwork
from mixlm.objectives.base import Objective
from mixlm.perf.chips import Chip, chip
from mixlm.perf.collectives import Collective, collectives, transfers_between_slices
from mixlm.perf.flops import matmul_flops
from mixlm.perf.hlo import module
from mixlm.perf.hlo_costs import hbm_bytes, loop_bytes, loop_flops
from mixlm.perf.tpu_topology import topology_devices
from mixlm.recipe import Recipe
from mixlm.reports.units import count, parameters, size
from mixlm.training.prepare import PreparedRun, prepare
from mixlm.training.step import TrainStep

# The compiler's two ways to refuse: once it has placed every array, or before, by what temporaries alone must take.
_REFUSALS = (
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
    re.compile(r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"),
)


@dataclass(frozen=True)
class Needs:
    """Costs of one step on each chip as the TPU compiler counts them: bytes of memory, FLOPs, bytes accessed.

    `outputs` are what does not lie in an argument's place. `flops` count what is computed, again or not, and of a
    kernel, into which the compiler does not look, what it says of itself; `model_flops` the matrix products alone, as
    often as the mathematics asks for them. `accessed` is XLA's "bytes accessed", which counts several times
    what is prefetched; `moved` are the bytes that HBM gives and takes. `exchanges` are those inside of a slice;
    `transfers` are the number and the bytes of arrays that go from a chip to the other slices.
    """

    arguments: int
    temporaries: int
    outputs: int
    peak: int
    flops: float
    accessed: float
    moved: float
    model_flops: float
    exchanges: tuple[Collective, ...] = ()
    transfers: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class TooLarge:
    """A step that the compiler refuses: it would use `used` bytes of the `limit` that a program may have."""

    used: float
    limit: float


@dataclass(frozen=True)
class Bounds:
    """The least seconds of a step on a chip by one ceiling each; `mfu` is what model FLOPs could reach of the peak."""

    compute: float
    memory: float
    links: float
    mfu: float

    @property
    def step(self) -> float:
        """The least seconds, all three overlapping perfectly."""
        return max(self.compute, self.memory, self.links)


def bounds(needs: Needs, on: Chip) -> Bounds:
    """FLOPs / peak, bytes moved / HBM's bandwidth, what collectives must send / the bandwidth of all links."""
    sent = sum(exchange.sent for exchange in needs.exchanges)
    # What a kernel does not say is computed all the same.
    times = (max(needs.flops, needs.model_flops) / on.flops, needs.moved / on.bandwidth, sent / on.links)
    return Bounds(*times, mfu=needs.model_flops / on.flops / max(times))


def needs(prepared: PreparedRun, objective: Objective) -> Needs | TooLarge:
    """Compiles the step of one objective for the plan's devices, and reads what the compiler says of it."""
    try:
        compiled = prepared.train_step.compile(objective).result()
    except jax.errors.JaxRuntimeError as error:
        refused = too_large(str(error))
        if refused is None:
            raise
        return refused
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    program = module(text)
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Needs(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        outputs=outputs,
        peak=memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs + memory.generated_code_size_in_bytes,
        flops=cost["flops"] + loop_flops(program),
        accessed=cost["bytes accessed"] + loop_bytes(program),
        moved=hbm_bytes(text),
        model_flops=model_flops(prepared, objective) / prepared.mesh.size,
        exchanges=collectives(program),
        transfers=transfers_between_slices(program),
    )


def model_flops(prepared: PreparedRun, objective: Objective) -> float:
    """The FLOPs of a step's matrix products over all chips, nothing computed again and no attention in a kernel."""
    recipe = prepared.recipe
    modules = tuple((name, _plainly(network)) for name, network in recipe.modules)
    step = TrainStep(modules, recipe.optimizer, recipe.microbatches)
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), prepared.shapes)
    rows = jax.ShapeDtypeStruct((recipe.batch_size, recipe.block_length), np.int32)
    traced = jax.make_jaxpr(partial(step, objective=objective))(state, {"tokens": rows}, np.int32(0))
    return matmul_flops(traced)


def _plainly(network: nn.Module) -> nn.Module:
    if not isinstance(network, LayeredNetwork):
        return network
    return network.clone(execution=replace(network.execution, remat=None, attention="plain"))


def too_large(message: str) -> TooLarge | None:
    """The compiler's account of a program that does not fit; None for any other message."""
    found = next(filter(None, (refusal.search(message) for refusal in _REFUSALS)), None)
    if found is None:
        return None
    used, used_unit, limit, limit_unit = found.groups()
    scale = {unit: 1024.0**power for power, unit in enumerate(("", "K", "M", "G", "T"))}
    return TooLarge(float(used) * scale[used_unit], float(limit) * scale[limit_unit])


def largest(fits: Callable[[int], float | TooLarge], refused: int, asked: TooLarge, fixed: float) -> int:
    """The largest whole number below `refused` that fits, 0 where none does; `fits` says the bytes that are used.

    Bisects, at first where a straight line through what is known so far meets the limit: `fixed` bytes at 0.
    """
    low, used_low, high, used_high, tries = 0, fixed, refused, asked.used, 0
    while high - low > 1:
        slope = (used_high - used_low) / (high - low)
        # A line may creep to the limit from one side: every third time it is the middle.
        straight = tries % 3 < 2 and slope > 0
        guess = low + int((asked.limit - used_low) / slope) if straight else (low + high) // 2
        guess = min(max(guess, low + 1), high - 1)
        found, tries = fits(guess), tries + 1
        if isinstance(found, TooLarge):
            high, used_high = guess, found.used
        else:
            low, used_low = guess, found
    return low


def compile_ahead(recipe: Recipe, topology: str, say: Callable[[str], None] = print) -> None:
    """Compiles every stage's step for a TPU slice such as "v5e:4x4", or for two ("2xv5e:4x4"), and says what it takes.

    Nothing is trained or read. Raises UserError for a topology that is not known, and at the end where a stage does not
    fit, with the largest batch that does.
    """
    devices = topology_devices(topology)
    prepared = prepare(recipe, None, devices=devices)
    try:
        for line in heading(prepared, topology):
            say(line)
        refused = []
        for stage, steps in prepared.recipe.stages.spans(prepared.recipe.steps):
            say(f"stage {stage.objective.name}, steps {stage.first + 1} to {stage.first + steps}")
            found = needs(prepared, stage.objective)
            for line in described(found, prepared, topology):
                say("  " + line)
            if isinstance(found, TooLarge):
                refused.append((stage.objective, found))
    finally:
        prepared.close()
    if refused:
        raise UserError(_advice(recipe, prepared, devices, topology, refused, say))


def heading(prepared: PreparedRun, topology: str) -> Iterator[str]:
    """The opening lines: the recipe, the topology with its mesh, and the chips' peaks."""
    recipe, devices = prepared.recipe, prepared.mesh.devices.flatten()
    on = chip(devices[0].device_kind)
    peaks = f", each {count(on.flops)}FLOP/s, {size(on.hbm)} at {count(on.bandwidth)}B/s" if on else ""
    yield f"recipe    {recipe.name}"
    for name, network in recipe.networks.items():
        yield f"{name:<9} {type(network).__name__}, {count(parameters(prepared.shapes.params[name]))} parameters"
    parts = f", in {recipe.microbatches} microbatches" if recipe.microbatches > 1 else ""
    yield f"rows      {recipe.batch_size} x {recipe.block_length} tokens a step{parts}"
    yield f"topology  {topology}: {len(devices)} x {devices[0].device_kind}{peaks}"
    yield f"mesh      {prepared.layout.described}"


def described(found: Needs | TooLarge, prepared: PreparedRun, topology: str) -> Iterator[str]:
    """Costs of a step on each chip, with the bounds that follow where the chip's peaks are known."""
    if isinstance(found, TooLarge):
        yield f"memory       {size(found.used)} of the {size(found.limit)} that a program may use: does not fit"
        return
    on = chip(prepared.mesh.devices.flat[0].device_kind)
    of = f" of {size(on.hbm)}" if on else ""
    yield (
        f"memory       {size(found.arguments)} of arguments, {size(found.temporaries)} of temporaries, "
        f"{size(found.outputs)} of new outputs; peak {size(found.peak)}{of}"
    )
    yield (
        f"work         {count(found.flops)}FLOP, of which the model's {count(found.model_flops)}FLOP, "
        f"{count(found.accessed)}B accessed, {count(found.moved)}B to and from HBM"
    )
    yield f"collectives  {exchanged(found.exchanges)}"
    if prepared.layout.slices > 1:
        times, held = found.transfers
        yield f"slices       {times} arrays of {count(held)}B from each chip to the other slices, by its host"
    if on is None:
        yield "bounds       unknown: this chip's peaks are not"
        return
    least = bounds(found, on)
    compute, memory, links, step = (
        f"{seconds * 1e3:.4g} ms" for seconds in (least.compute, least.memory, least.links, least.step)
    )
    yield (
        f"bounds       compute {compute}, memory {memory}, links {links}: a step takes at least {step}, "
        f"and MFU is at most {least.mfu:.1%}"
    )


def exchanged(exchanges: Sequence[Collective]) -> str:
    """Collectives of a step by kind: their number, and the bytes of their arrays on each chip."""
    kinds = dict.fromkeys(exchange.kind for exchange in exchanges)
    sums = {
        kind: [
            (exchange.times, exchange.times * exchange.bytes, exchange.sent)
            for exchange in exchanges
            if exchange.kind == kind
        ]
        for kind in kinds
    }
    shown = []
    for kind, rows in sums.items():
        times, held, sent = (sum(column) for column in zip(*rows))
        shown.append(f"{times} {kind} of {count(held)}B, {count(sent)}B sent")
    return "; ".join(shown) or "none"


def _advice(
    recipe: Recipe,
    prepared: PreparedRun,
    devices: list[Any],
    topology: str,
    refused: list[Any],
    say: Callable[[str], None],
) -> str:
    """The largest batch that all stages fit with, found by compiling."""
    unit = prepared.layout.parts("batch") * recipe.microbatches
    state = sum(_bytes_on_chip(leaf) for leaf in jax.tree.leaves(prepared.shapes))
    whole = best = recipe.batch_size // unit
    for objective, asked in refused:

        def fits(units: int, objective: Objective = objective) -> float | TooLarge:
            tried = prepare(replace(recipe, batch_size=units * unit), None, devices=devices)
            try:
                found = needs(tried, objective)
            finally:
                tried.close()
            does = "do not fit" if isinstance(found, TooLarge) else "fit"
            say(f"  {units * unit} rows {does}, in {objective.name}")
            return found if isinstance(found, TooLarge) else found.peak

        at_best = asked if best == whole else fits(best)
        if isinstance(at_best, TooLarge):
            best = largest(fits, best, at_best, state)
    said = f"A batch of {recipe.batch_size} rows does not fit {topology}"
    if best == 0:
        return (
            f"{said}, nor does one of {unit}, the smallest: shard the parameters (FSDP_PARTITIONS) or take more chips."
        )
    return f"{said}; the largest that does is BATCH_SIZE = {best * unit}."


def _bytes_on_chip(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
