"""`runtime`: the devices of this process, how fast they multiply, and what runs will take on them."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mixlm.api.functions import checked
from mixlm.api.settled import settled
from mixlm.recipe import Recipe
from mixlm.reports.table import Table
from mixlm.reports.units import count

SIDE = 1024  # Ours: of the matrices that are multiplied, large enough that their product and not its start is timed
CHAIN = 200  # Ours: products one after the other that are too small to take any time but that of their start
TRIES = 5  # the fastest counts: whatever else the machine does makes it slower
# Ours: the default recipes reach 0.38 to 0.62 of what a large product does on two idle cores (benchmarks/NOTES.md), and
# smaller steps less; one step starts some hundred operations for each layer, forward and backward.
SHARE, STARTS = 0.35, 400


@dataclass(frozen=True)
class Runtime:
    """The devices of this process: their kind and number, FLOP/s of a float32 product, seconds to start an operation.

    Both are measured on one device, of 1,024 x 1,024 matrices and of a chain of tiny ones.
    """

    platform: str
    kind: str
    devices: int
    flops: float
    start: float

    def estimate(self, **recipes: Recipe) -> Table:
        """A row for each recipe: steps, FLOPs, the seconds that they take at least, and about.

        `at_least` is FLOPs / measured FLOP/s. `about` adds what small steps lose: products reach 0.35 of the ceiling,
        and 400 operations are started in a step. FLOPs are counted exactly, in the traced step. Compilation, validation
        and checkpoints come on top: some ten seconds each on a CPU.
        """
        return Table([{"run": name} | self._row(recipe) for name, recipe in recipes.items()])

    def _row(self, recipe: Recipe) -> dict[str, Any]:
        flops, steps = run_flops(recipe)
        least = flops / (self.flops * self.devices)
        about = least / SHARE + steps * STARTS * self.start
        return {"steps": steps, "FLOPs": count(flops), "at least": spoken(least), "about": spoken(about)}

    def __str__(self) -> str:
        kind = self.kind if self.kind.lower() != self.platform else self.platform.upper()
        measured = (
            f"{count(self.flops)}FLOP/s in a float32 product, {1e6 * self.start:.0f} \u00b5s to start an operation"
        )
        return f"{self.devices} x {kind}: measured {measured}"

    def _repr_html_(self) -> str:
        return f"<p>{self}</p>"


def runtime() -> Runtime:
    """Measures the devices of this process, for a second.

    Returns:
      The runtime, which prints as a line; `estimate` says what recipes will take.

    Example: `runtime().estimate(first=load_recipe("mile.gin", TRAIN_STEPS=100))`.
    """
    import jax
    import jax.numpy as jnp

    square, tiny = jnp.ones((SIDE, SIDE), jnp.float32), jnp.ones((8, 8), jnp.float32) / 8
    product = jax.jit(lambda x: x @ x)
    chain = jax.jit(lambda x: jax.lax.fori_loop(0, CHAIN, lambda _, y: y @ x, x))
    device = jax.devices()[0]
    flops = 2 * SIDE**3 / _fastest(lambda: product(square))
    return Runtime(
        device.platform, device.device_kind, len(jax.devices()), flops, _fastest(lambda: chain(tiny)) / CHAIN
    )


def _fastest(call: Callable[[], Any]) -> float:
    """Seconds of a call that is compiled already."""
    call().block_until_ready()
    found = []
    for _ in range(TRIES):
        start = time.perf_counter()
        call().block_until_ready()
        found.append(time.perf_counter() - start)
    return min(found)


def run_flops(recipe: Recipe) -> tuple[float, int]:
    """(The FLOPs of all matrix products of a run, its steps); traced, nothing is compiled or trained."""
    from mixlm.training.prepare import prepare

    recipe = checked(recipe)
    whole = recipe if recipe.train_steps is not None else settled(recipe)[0]
    with closing(prepare(whole, None, ahead=False)) as prepared:
        return prepared.flops_until(whole.steps), whole.steps


def spoken(seconds: float) -> str:
    """A time in the unit that one would say: 0.4 s, 90 s, 12 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
