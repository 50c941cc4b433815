"""A case of `fast`: a recipe's train step at the largest batch that fits, or the product that is JAX's ceiling."""

import gc
import time
from dataclasses import replace
from functools import partial
from typing import Any

from cases import Device, out_of_memory
from kernels import kernels
from timing import CEILING, timed

import flax.linen as nn  # isort: skip
import jax
import jax.numpy as jnp
import numpy as np

from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.network import LayeredNetwork
from mixlm.objectives.base import Objective
from mixlm.perf.accounting import mfu_flops
from mixlm.perf.chips import chip
from mixlm.perf.flops import flops_by_scope, matmul_flops
from mixlm.recipe import Recipe
from mixlm.training.prepare import PreparedRun, prepare
from mixlm.training.step import TrainStep


class TooLarge(Exception):
    """A step that holds more than the device has, by the compiler."""


def recipe(settings: dict[str, Any], attempt: dict[str, Any]) -> Recipe:
    """The case's recipe with the batch of one attempt; --tiny takes other files."""
    files = settings["small"] if settings["tiny"] else settings["files"]
    macros = {name: value for name, value in attempt.items() if name != "gigabytes"}
    bindings = [f"--gin.{name}={value!r}" for name, value in {"DTYPE": "bfloat16", **macros}.items()]
    bindings += [f"--gin.{binding}" for binding in settings.get("bindings", ())]
    return configured(parse_flags([*(f"--gin_file={file}.gin" for file in files), *bindings], ""), Recipe)


def rows_of(made: Recipe) -> dict[str, tuple[int, ...]]:
    """The arrays of a batch, all of them int32, by their shape."""
    shapes: dict[str, tuple[int, ...]] = {"tokens": (made.batch_size, made.block_length)}
    return shapes | ({"previous": (made.batch_size,)} if made.before else {})


def plainly(network: nn.Module) -> nn.Module:
    """A network whose every product is in its jaxpr, once: no kernels, nothing computed again."""
    if not isinstance(network, LayeredNetwork):
        return network
    return network.clone(execution=replace(network.execution, remat=None, attention="plain"))


def model_flops(prepared: PreparedRun, objective: Objective) -> tuple[float, float]:
    """(What MFU counts of a step, all of its matrix products), nothing twice and attention in full."""
    made = prepared.recipe
    step = TrainStep(tuple((name, plainly(network)) for name, network in made.modules), made.optimizer)
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), prepared.shapes)
    batch = {name: jax.ShapeDtypeStruct(shape, np.int32) for name, shape in rows_of(made).items()}
    traced = jax.make_jaxpr(partial(step, objective=objective))(state, batch, np.int32(made.seed))
    return mfu_flops(flops_by_scope(traced), tuple(made.networks)), matmul_flops(traced)


def prepared_case(settings: dict[str, Any], attempt: dict[str, Any]) -> tuple[PreparedRun, Objective]:
    """The steps of an attempt, traced, and the objective of the case's stage."""
    prepared = prepare(recipe(settings, attempt), None)
    objective = prepared.recipe.objectives[settings.get("stage", 0)]
    prepared.train_step.trace(objective).result()
    return prepared, objective


def measure(device: Device, prepared: PreparedRun, objective: Objective) -> None:
    """Compiles, compares with the device's memory, steps, and notes what was seen."""
    made, where = prepared.recipe, jax.devices()[0]
    begun = time.monotonic()
    executable, memory = prepared.train_step[objective], prepared.train_step.memory(objective)
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    device.note(compile_seconds=time.monotonic() - begun, step_bytes=held, argument_bytes=memory.argument_size_in_bytes)
    limit = (where.memory_stats() or {}).get("bytes_limit")
    if limit is not None and held > limit:
        raise TooLarge(f"a step holds {held / 1e9:.1f} GB of {limit / 1e9:.1f} GB")
    random = np.random.default_rng(0)
    vocabulary = made.tokens.vocab_size
    batch = {name: random.integers(200, vocabulary - 200, shape, np.int32) for name, shape in rows_of(made).items()}
    begun = time.monotonic()
    rows, seen = prepared.shard_batch(batch), {"state": jax.block_until_ready(prepared.init_state()), "figures": {}}
    device.note(first_state_seconds=time.monotonic() - begun)

    def step() -> None:
        seen["state"], seen["figures"] = executable(seen["state"], rows, prepared.seed)

    begun = time.monotonic()
    step()
    first = float(seen["figures"]["loss"])
    device.note(first_step_seconds=time.monotonic() - begun)
    times = timed(step, lambda: jax.block_until_ready(seen), blocks=2 if device.settings["tiny"] else 7)
    median, flops = times["step_seconds"], device.figures["model_flops"]
    peak, on = (where.memory_stats() or {}).get("peak_bytes_in_use"), chip(where.device_kind)
    device.note(
        **times,
        tokens_per_second=made.batch_size * made.block_length / median,
        tflops=flops / median / 1e12,
        mfu=None if on is None else flops / median / on.flops,
        peak_bytes=peak,
        first_loss=first,
        last_loss=float(seen["figures"]["loss"]),
    )
    device.note(kernels=kernels(lambda: (step(), jax.block_until_ready(seen))))


def step_case(device: Device) -> None:
    """Goes through the batches, from the largest that the device's memory may hold, until one runs.

    Where attention's best kernel fails for another reason, plain XLA takes its place, and the error is noted.
    """
    settings, held = device.settings, device_memory()
    attempts = settings["tiny_tries" if settings["tiny"] else "tries"]
    attempts = [each for each in attempts if held is None or each.get("gigabytes", 0) <= held / 1e9]
    attention, refused, waited = "auto", [], False
    while attempts:
        prepared, objective = prepared_case(settings, attempts[0] | {"ATTENTION": attention})
        counted, products = model_flops(prepared, objective)
        made = prepared.recipe
        device.note(
            rows=made.batch_size, length=made.block_length, microbatches=made.microbatches,
            remat=str(attempts[0].get("REMAT")), attention=attention, model_flops=counted, step_flops=products,
            scan=next(iter(dict(made.modules).values())).execution.scan, refused=refused,
        )  # fmt: skip
        if not waited:
            waited = device.wait() or True
        try:
            measure(device, prepared, objective)
            return
        except Exception as error:
            if isinstance(error, TooLarge) or out_of_memory(error):
                refused.append(f"{attempts[0]}: {str(error)[:200]}")
                del attempts[0]
            elif attention == "auto":
                device.note(auto_error=f"{type(error).__name__}: {error}"[:800])
                attention = "recomputed"
            else:
                raise
        prepared.close()
        del prepared, objective
        gc.collect()
    raise TooLarge(f"no batch fits: {refused}")


def device_memory() -> int | None:
    """Bytes of the device, of which a program may have what XLA_PYTHON_CLIENT_MEM_FRACTION leaves it."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")


def ceiling(device: Device) -> None:
    """The rate of one large product of random bfloat16 numbers."""
    device.wait()
    size = 512 if device.settings["tiny"] else CEILING
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), jnp.bfloat16) for key in keys)
    product, seen = jax.jit(jnp.matmul), [a]

    def step() -> None:
        seen[0] = product(a, b)

    times = timed(step, lambda: jax.block_until_ready(seen))
    where = jax.devices()[0]
    on, rate = chip(where.device_kind), 2 * size**3 / times["step_seconds"]
    device.note(
        **times,
        tflops=rate / 1e12,
        of_peak=None if on is None else rate / on.flops,
        device=where.device_kind,
        memory=device_memory(),
        jax=jax.__version__,
    )


if __name__ == "__main__":
    device = Device()
    try:
        ceiling(device) if device.settings.get("kind") == "ceiling" else step_case(device)
    except Exception as error:
        device.note(error=f"{type(error).__name__}: {error}"[:1500])
        raise
    device.done()
