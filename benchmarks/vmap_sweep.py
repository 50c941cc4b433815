"""K small runs trained at once under vmap: python benchmarks/vmap_sweep.py [--runs=1,2,4,8] [--tpu=v5e:2x2].

Share of causal rows, learning rate and seed are the mapped values, of Dual's objective on a small Llama. First the runs
at once are compared with the runs one by one; then both are timed in turn, in milliseconds for a step of one run; then,
with a TPU compiler, K steps are compiled for one chip of a topology, and what they take is divided by K.
With --json=FILE the figures are written as well.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixlm.models.llama import Llama
from mixlm.objectives.causal import Causal
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.mixing import PerExample
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.perf.chips import chip
from mixlm.perf.hlo_costs import hbm_bytes
from mixlm.perf.tpu_topology import topology_devices
from mixlm.schedules import Constant
from mixlm.tokens import TokenIds
from mixlm.training.initial_state import initial_state
from mixlm.training.step import TrainStep
from mixlm.training.traced_hparams import bind, hoist


@dataclass(frozen=True)
class Cell:
    """One run of the sweep."""

    share: float
    learning_rate: float
    seed: int


def main() -> None:
    """Compares, times, compiles; prints tables and writes JSON. Exit code 1 where the runs at once are others."""
    given = parse()
    runs = [int(count) for count in given.runs.split(",")]
    sweep = Sweep(given)
    found: dict[str, Any] = {"device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "sizes": vars(given)}
    found["differences"] = sweep.differences(max(runs))
    for name, value in found["differences"].items():
        print(f"largest relative difference of {name}: {value:.2g}")
    found["times"] = [sweep.timed(count, given.rounds) for count in runs]
    print(f"{'K':>3}{'one by one':>14}{'at once':>14}{'ratio':>10}   (ms for a step of one run)")
    for row in found["times"]:
        print(f"{row['runs']:>3}{row['alone_ms']:>14.2f}{row['at_once_ms']:>14.2f}{row['ratio']:>10.3f}")
    if given.tpu:
        found["tpu"] = ahead(sweep, runs, given.tpu)
        print(f"{'K':>3}{'MFLOP':>12}{'MB of HBM':>14}{'MB held':>10}{'bound us':>12}   (for a step of one run)")
        for row in found["tpu"]:
            figures = (row["flops"] / 1e6, row["bytes"] / 1e6, row["temporaries"] / 1e6, 1e6 * row["bound"])
            print(f"{row['runs']:>3}{figures[0]:>12.1f}{figures[1]:>14.2f}{figures[2]:>10.2f}{figures[3]:>12.2f}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1, default=str) + "\n")
    if found["differences"]["loss"] > given.rounding:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"width": 128, "layers": 2, "vocab": 1024, "rows": 8, "length": 64, "steps": 10, "rounds": 5}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--runs", default="1,2,4,8", help="how many at once, with commas")
    parser.add_argument("--rounding", type=float, default=1e-3, help="how far a loss may be off after --steps steps")
    parser.add_argument("--tpu", help="a topology to compile for, such as v5e:2x2")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    return parser.parse_args()


class Sweep:
    """The step of one run with its numbers as arguments, and of K runs as its vmap."""

    def __init__(self, sizes: argparse.Namespace):
        self.sizes, self.tokens = sizes, TokenIds(sizes.vocab, mask=3, bos=4)
        width, heads = sizes.width, max(sizes.width // 32, 1)
        module = Llama(sizes.vocab, width, heads, width // heads, round(8 * width / 3), sizes.layers)
        self.modules = {"model": module}
        static, _ = hoist(self.step(Cell(0.5, 0.1, 0)))
        objective, _ = hoist(self.objective(Cell(0.5, 0.1, 0)))

        def one(state: Any, batch: Any, seed: Any, numbers: tuple[Any, Any]) -> Any:
            return bind(static, numbers[0])(state, batch, seed, bind(objective, numbers[1]))

        # Compiled once for all cells, and for each number of them.
        self.one, self.at_once = jax.jit(one, donate_argnums=0), jax.jit(jax.vmap(one), donate_argnums=0)
        mesh = Partitioning().mesh(jax.devices()[:1])
        self.create = initial_state(self.modules, self.step(Cell(0.5, 0.1, 0)).optimizer, 0, mesh)[0].func

    def step(self, cell: Cell) -> TrainStep:
        """The step with the cell's learning rate."""
        return TrainStep(tuple(self.modules.items()), Optimizer(AdamW(), Constant(cell.learning_rate)))

    def objective(self, cell: Cell) -> PerExample:
        """Dual with the cell's share of causal rows."""
        return PerExample((Causal(self.tokens), MaskedDiffusion(self.tokens)), (cell.share,))

    def cells(self, count: int) -> list[Cell]:
        """Shares from 1/2 to 1, learning rates from 1e-3 on, seeds from 0 on."""
        return [Cell(0.5 + 0.5 * index / max(count - 1, 1), 1e-3 * 1.2**index, index) for index in range(count)]

    def numbers(self, cell: Cell) -> Any:
        """What the cell's step and objective have of their own."""
        found = hoist(self.step(cell))[1], hoist(self.objective(cell))[1]
        return jax.tree.map(np.float32, found)

    def arguments(self, cell: Cell) -> tuple[Any, ...]:
        """All that a step of the cell takes: every run reads its own rows."""
        draw = np.random.default_rng(cell.seed)
        rows = draw.integers(5, self.sizes.vocab - 100, (self.sizes.rows, self.sizes.length)).astype(np.int32)
        return self.create(np.int32(cell.seed)), {"tokens": rows}, np.int32(cell.seed), self.numbers(cell)

    def stacked(self, count: int) -> tuple[Any, ...]:
        """The arguments of all cells, a leading axis for the runs."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(self.arguments, self.cells(count)))

    def differences(self, count: int) -> dict[str, float]:
        """The largest relative difference of losses and parameters after `steps` steps, at once and one by one."""
        state, *rest = self.stacked(count)
        for _ in range(self.sizes.steps):
            state, metrics = self.at_once(state, *rest)
        losses, drift = [], 0.0
        for index, cell in enumerate(self.cells(count)):
            own, *fixed = self.arguments(cell)
            for _ in range(self.sizes.steps):
                own, found = self.one(own, *fixed)
            losses.append(abs(float(metrics["loss"][index] / found["loss"]) - 1))
            for both, single in zip(jax.tree.leaves(state.params), jax.tree.leaves(own.params)):
                distance = jnp.linalg.norm(both[index] - single) / jnp.linalg.norm(single)
                drift = max(drift, float(distance))
        return {"loss": max(losses), "parameters": drift}

    def timed(self, count: int, rounds: int) -> dict[str, Any]:
        """Medians over rounds in turn: the steps of one run after another's, and of all at once."""
        kinds: dict[str, tuple[Callable[..., Any], list[Any]]] = {
            "alone": (self.one, [list(self.arguments(cell)) for cell in self.cells(count)]),
            "at_once": (self.at_once, [list(self.stacked(count))]),
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds + 1):
            for kind, (step, runs) in kinds.items():
                begun = time.perf_counter()
                for run in runs:
                    for _ in range(self.sizes.steps):
                        run[0], _ = step(*run)
                jax.block_until_ready([run[0] for run in runs])
                seconds[kind].append(time.perf_counter() - begun)
        # The first round compiles.
        each = {
            kind: 1000 * statistics.median(found[1:]) / (count * self.sizes.steps) for kind, found in seconds.items()
        }
        ratio = each["at_once"] / each["alone"]
        return {"runs": count, "alone_ms": each["alone"], "at_once_ms": each["at_once"], "ratio": ratio}


def ahead(sweep: Sweep, runs: list[int], topology: str) -> list[dict[str, Any]]:
    """What the TPU compiler says of K steps at once on one chip, divided by K; the bound is the larger of both."""
    device = topology_devices(topology)[0]
    known, place = chip(device.device_kind), jax.sharding.SingleDeviceSharding(device)
    rows = []
    for count in runs:
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=place),
            sweep.stacked(count),
        )
        compiled = sweep.at_once.lower(*shapes).compile()
        cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
        flops, moved = cost["flops"] / count, hbm_bytes(compiled.as_text()) / count
        bound = max(flops / known.flops, moved / known.bandwidth) if known else float("nan")
        held = memory.temp_size_in_bytes / count
        rows.append({"runs": count, "flops": flops, "bytes": moved, "temporaries": held, "bound": bound})
    return rows


if __name__ == "__main__":
    main()
