# ruff: noqa: E402
"""What a step needs of memory, and what saving it costs in time: python benchmarks/memory.py [--json=FILE].

Three tables. `head`: temporary bytes of the loss and its gradient for rows, lengths and vocabularies, next to the
logits that never exist whole. `step`: one network's step with each way to save memory; "off" is by how much the norm of
its gradients differs from that of the plain step, relatively; times are medians of interleaved rounds, as ratios to the
plain step (--rounds=0 compiles only). `depth`: what compiling costs for more layers, one by one and scanned.

Bytes are those that XLA's compiler plans, on this machine's CPU or with --topology=v5e:2x2, say, by the TPU compiler
for one chip of it, which runs nothing here.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import numpy as np

from mixlm.losses.score import score
from mixlm.losses.token_losses import CrossEntropy
from mixlm.models.layer_stack import Execution
from mixlm.models.llama import Llama
from mixlm.objectives.causal import Causal
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.logical_axes import under
from mixlm.parallel.mesh import Partitioning, batch_sharding, replicated
from mixlm.schedules import Constant
from mixlm.tokens import TokenIds
from mixlm.training.executables import Executables
from mixlm.training.initial_state import initial_state
from mixlm.training.step import TrainStep

MIB = 2**20
VOCABULARY, ROWS, LENGTH, LAYERS = 8192, 16, 256, 6
SIZES = {"emb_dim": 256, "num_heads": 4, "head_dim": 64, "mlp_dim": 688, "logits_via_embedding": True}
NOTHING, DOTS = "nothing_saveable", "dots_with_no_batch_dims_saveable"
# (how, execution, dtype, microbatches)
WAYS = (
    ("plain", Execution(), "float32", 1),
    (f"remat {NOTHING}", Execution(remat=NOTHING), "float32", 1),
    (f"remat {DOTS}", Execution(remat=DOTS), "float32", 1),
    ("remat dots_saveable", Execution(remat="dots_saveable"), "float32", 1),
    ("scan", Execution(scan=True), "float32", 1),
    (f"scan, remat {NOTHING}", Execution(scan=True, remat=NOTHING), "float32", 1),
    ("4 microbatches", Execution(), "float32", 4),
    (f"4 microbatches, remat {NOTHING}", Execution(remat=NOTHING), "float32", 4),
    ("bfloat16", Execution(), "bfloat16", 1),
    (f"bfloat16, scan, remat {NOTHING}", Execution(scan=True, remat=NOTHING), "bfloat16", 1),
)


def head(devices: list[Any], rows: int, length: int, vocabulary: int, width: int = 64) -> dict[str, Any]:
    """The temporaries of the head's loss and gradient."""

    def loss(hidden: Any, table: Any, targets: Any) -> Any:
        weights = jnp.ones(targets.shape)
        return score(partial(_logits, table), hidden, targets, weights, CrossEntropy()).total

    place = replicated(Partitioning().mesh(devices[:1]))

    def shape(*sizes: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=place)

    arrays = shape(rows, length, width), shape(vocabulary, width), shape(rows, length, dtype=np.int32)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arrays).compile()
    return {
        "rows": rows,
        "length": length,
        "vocabulary": vocabulary,
        "temporaries": compiled.memory_analysis().temp_size_in_bytes,
        "logits": 4 * rows * length * vocabulary,
    }


def _logits(table: Any, hidden: Any) -> Any:
    return jnp.einsum("...d,vd->...v", hidden, table)


class Way:
    """One way to take the step, compiled; `seconds` are those of its steps."""

    def __init__(self, devices: list[Any], execution: Execution, dtype: str, microbatches: int, layers: int = LAYERS):
        network = Llama(vocab_size=VOCABULARY, num_layers=layers, dtype=dtype, execution=execution, **SIZES)
        objective, optimizer = Causal(TokenIds(VOCABULARY, mask=4, bos=3)), Optimizer(AdamW(), Constant(1e-3))
        layout = Partitioning().layout(devices[:1])
        self.create, shapes = initial_state({"model": network}, optimizer, 0, layout)
        batch = {"tokens": jax.ShapeDtypeStruct((ROWS, LENGTH), np.int32, sharding=batch_sharding(layout))}
        seed = jax.ShapeDtypeStruct((), np.int32, sharding=replicated(layout))
        step = under(layout, TrainStep((("model", network),), optimizer, microbatches))
        executables = Executables(step, shapes, batch, seed, donate_argnums=0)
        self.products = executables.matmul_flops(objective)
        begun = time.perf_counter()
        compiled = executables.compile(objective).result()
        self.compiling = time.perf_counter() - begun
        self.memory, self.instructions = compiled.memory_analysis(), compiled.as_text().count(" = ")
        self.step, self.seconds = executables[objective], list[float]()

    def begin(self) -> None:
        """Takes the first step, whose gradients all ways have in common."""
        rows = np.random.default_rng(0).integers(200, VOCABULARY - 200, (ROWS, LENGTH)).astype(np.int32)
        self.batch, self.state = {"tokens": rows}, self.create()
        self.norm = float(self.run()["grad_norm"])
        self.seconds.clear()

    def run(self) -> Any:
        """Takes a step and notes how long it took."""
        begun = time.perf_counter()
        self.state, figures = self.step(self.state, self.batch, np.int32(0))
        jax.block_until_ready((self.state, figures))
        self.seconds.append(time.perf_counter() - begun)
        return figures


def steps(devices: list[Any], rounds: int) -> list[dict[str, Any]]:
    """The table of ways to save memory."""
    ways = [(name, Way(devices, *settings)) for name, *settings in WAYS]
    for _, way in ways if rounds else ():
        way.begin()
    for _ in range(rounds):
        for _, way in ways:
            way.run()
    plain = ways[0][1]
    return [_row(name, way, plain, rounds) for name, way in ways]


def _row(name: str, way: Way, plain: Way, rounds: int) -> dict[str, Any]:
    found = {
        "way": name,
        "arguments": way.memory.argument_size_in_bytes,
        "temporaries": way.memory.temp_size_in_bytes,
        "products": way.products / plain.products,
        "compiling": way.compiling,
        "instructions": way.instructions,
    }
    if rounds:
        off = abs(way.norm / plain.norm - 1)
        seconds = statistics.median(way.seconds)
        found |= {"seconds": seconds, "time": seconds / statistics.median(plain.seconds), "off": off}
    return found


def depths(devices: list[Any]) -> list[dict[str, Any]]:
    """What compiling costs."""
    found = []
    for layers in (6, 24):
        for execution in (Execution(), Execution(scan=True)):
            way = Way(devices, execution, "float32", 1, layers)
            found.append(
                {
                    "layers": layers,
                    "scan": execution.scan,
                    "compiling": way.compiling,
                    "instructions": way.instructions,
                    "temporaries": way.memory.temp_size_in_bytes,
                }
            )
    return found


def heads(devices: list[Any]) -> list[dict[str, Any]]:
    """The table of the head."""
    return [
        head(devices, rows, length, vocabulary)
        for vocabulary in (32_000, 256_000)
        for rows, length in ((1, 512), (1, 2048), (4, 512), (4, 2048))
    ]


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "head": (
        f"{'rows':>5}{'length':>8}{'vocabulary':>12}{'MiB of temporaries':>20}{'MiB of all logits':>19}",
        lambda row: (
            f"{row['rows']:>5}{row['length']:>8}{row['vocabulary']:>12,}{row['temporaries'] / MIB:>20.1f}"
            f"{row['logits'] / MIB:>19.1f}"
        ),
    ),
    "step": (
        f"{'way':<40}{'state MiB':>10}{'temp. MiB':>11}{'products':>10}{'time':>7}{'off':>10}{'compiled in s':>15}",
        lambda row: (
            f"{row['way']:<40}{row['arguments'] / MIB:>10.1f}{row['temporaries'] / MIB:>11.1f}{row['products']:>10.2f}"
            f"{row.get('time', float('nan')):>7.2f}{row.get('off', float('nan')):>10.1e}{row['compiling']:>15.1f}"
        ),
    ),
    "depth": (
        f"{'layers':>7}{'':>10}{'compiled in s':>15}{'instructions':>14}{'temp. MiB':>11}",
        lambda row: (
            f"{row['layers']:>7}{'scanned' if row['scan'] else 'one by one':>11}{row['compiling']:>14.1f}"
            f"{row['instructions']:>14}{row['temporaries'] / MIB:>11.1f}"
        ),
    ),
}


def main() -> None:
    """Prints the tables and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=",".join(TABLES), help="of head, step, depth")
    parser.add_argument("--rounds", type=int, default=5, help="how often each step is timed; 0: compile only")
    parser.add_argument("--topology", help="compile for one chip of this TPU slice instead")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    devices, rounds = jax.devices(), asked.rounds
    if asked.topology:
        from mixlm.perf.tpu_topology import topology_devices

        devices, rounds = topology_devices(asked.topology), 0
    made = {"head": heads, "step": partial(steps, rounds=rounds), "depth": depths}
    found = {"device": devices[0].device_kind}
    print(f"on {found['device']}", flush=True)
    for name in asked.tables.split(","):
        title, line = TABLES[name]
        rows = made[name](devices)
        print(f"\n{title}\n" + "\n".join(map(line, rows)), flush=True)
        found[name] = rows
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
