"""A step that does not fit its device, before it runs or while it does: the microbatches or the REMAT that would."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax

from mixlm.errors import UserError
from mixlm.network import LayeredNetwork
from mixlm.parallel.mesh import bytes_per_device
from mixlm.perf.memory import gigabytes
from mixlm.recipe import Recipe
from mixlm.training.compiled_steps import executables_of
from mixlm.training.executables import Executables
from mixlm.training.held import memory_of
from mixlm.training.prepare import PreparedRun

# The policy that keeps a layer's input alone.
LEAST = "nothing_saveable"
# Ours: what an allocator could not place although the compiler's figure was below the limit needs some room around it.
ROOM = 0.8


@dataclass(frozen=True)
class _Way:
    """A setting to be tried: microbatches, and whether layers keep their inputs alone."""

    microbatches: int
    rematerialised: bool


def check_step(prepared: PreparedRun, objective: Any) -> None:
    """Compiles the step of an objective; UserError where it holds more than its device has, with what would fit."""
    limit, where = memory_of(prepared.layout)
    try:
        held = step_bytes(prepared.train_step, objective)
    except jax.errors.JaxRuntimeError as error:
        if not ran_out(error):
            raise
        said = f"The compiler finds no room for the step of {objective.name} on {where}"
        raise UserError(f"{said}: {fitting(prepared, objective, limit)}.") from None
    if limit is not None and held > limit:
        needs = f"The step of {objective.name} needs at least {gigabytes(held)} and {where} has {gigabytes(limit)}"
        raise UserError(f"{needs}: {fitting(prepared, objective, limit, held)}.")


@contextmanager
def memory_said(prepared: PreparedRun, step: Callable[[], int], kept: Callable[[], str]) -> Iterator[None]:
    """Within this, an allocation that fails is a UserError: the step that failed, what would fit, and what is kept."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not ran_out(error):
            raise
        (limit, where), objective = memory_of(prepared.layout), prepared.recipe.stages.at(step()).objective
        held = step_bytes(prepared.train_step, objective)
        most = int(ROOM * (held if limit is None else min(held, limit)))
        # Compiling asks all processes, and the others may not have failed.
        way = "raise MICROBATCHES" if jax.process_count() > 1 else fitting(prepared, objective, most, held)
        of = "" if limit is None else f" of its {gigabytes(limit)}"
        raise UserError(
            f"The memory of {where} ran out in step {step() + 1}, where {objective.name} holds {gigabytes(held)}{of} "
            f"by the compiler: {way}; {kept()}."
        ) from None


def ran_out(error: BaseException) -> bool:
    """True for XLA's error that memory ran out, of its compiler or of a device's allocator."""
    return "RESOURCE_EXHAUSTED" in str(error)


def step_bytes(steps: Executables, objective: Any) -> int:
    """The compiler's bytes of a step on each device: arguments and temporaries."""
    memory = steps.memory(objective)
    return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes)


def fitting(prepared: PreparedRun, objective: Any, most: int | None, held: int | None = None) -> str:
    """The setting whose step takes at most `most` bytes of a device, as a clause; found by compiling a few of them.

    `held` are the bytes of the step that does not fit. Microbatches come first, since they change no number of a run.
    """
    recipe = prepared.recipe
    for way in _ways(prepared, most, held):
        found = _compiled_bytes(prepared, objective, way)
        if found is None or (most is not None and found > most):
            continue
        names = [f"MICROBATCHES = {way.microbatches}"] * (way.microbatches > recipe.microbatches)
        names = [f"REMAT = {LEAST!r}"] * way.rematerialised + names
        smaller = f", and so would BATCH_SIZE = {recipe.batch_size * recipe.microbatches // way.microbatches}"
        return (
            f"{' with '.join(names)} would fit, with {gigabytes(found)} by the compiler"
            f"{smaller if way.microbatches > recipe.microbatches else ''}"
        )
    return (
        f"no number of MICROBATCHES would fit, nor REMAT = {LEAST!r}; take a smaller network, or shard it over more "
        "devices (FSDP_PARTITIONS)"
    )


def _ways(prepared: PreparedRun, most: int | None, held: int | None) -> list[_Way]:
    """The fewest microbatches that should fit, the most there can be, and both with recomputed layers."""
    recipe, parts = prepared.recipe, prepared.layout.parts("batch")
    counts = [
        count
        for count in range(recipe.microbatches + 1, recipe.batch_size // parts + 1)
        if recipe.batch_size % count == 0 and recipe.batch_size // count % parts == 0
    ]
    plain = [count for count in counts if _should_fit(prepared, count, most, held)][:1] + counts[-1:]
    found = [_Way(count, False) for count in dict.fromkeys(plain)]
    if _recomputed(recipe) != recipe.modules:
        found += [_Way(count, True) for count in dict.fromkeys((recipe.microbatches, *counts[-1:]))]
    return found


def _should_fit(prepared: PreparedRun, count: int, most: int | None, held: int | None) -> bool:
    """An estimate: the state and the sum of gradients stay, and the rest is that of a microbatch."""
    stays = bytes_per_device(prepared.shapes) + bytes_per_device(prepared.shapes.params)
    if held is None or most is None:
        return count >= 4 * prepared.recipe.microbatches
    return stays + max(held - stays, 0) * prepared.recipe.microbatches / count <= most


def _recomputed(recipe: Recipe) -> tuple[tuple[str, Any], ...]:
    """The networks, whose layers keep their inputs alone."""
    return tuple(
        (name, network.clone(execution=replace(network.execution, remat=LEAST)))
        if isinstance(network, LayeredNetwork)
        else (name, network)
        for name, network in recipe.modules
    )


def _compiled_bytes(prepared: PreparedRun, objective: Any, way: _Way) -> int | None:
    """`step_bytes` in another way; None where the compiler refuses that as well."""
    recipe = prepared.recipe
    modules = _recomputed(recipe) if way.rematerialised else recipe.modules
    steps, validation = executables_of(recipe, prepared.layout, prepared.shapes, modules, way.microbatches)
    try:
        return step_bytes(steps, objective)
    except jax.errors.JaxRuntimeError as error:
        if not ran_out(error):
            raise
        return None
    finally:
        steps.close()
        validation.close()
