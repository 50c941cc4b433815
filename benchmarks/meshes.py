# ruff: noqa: E402
"""Every recipe on every mesh of eight virtual devices: python benchmarks/meshes.py [--json FILE].

Each recipe of gin/, its networks and rows made small, takes ten steps on one device and on each mesh, in float32,
through its stages. The table shows the largest relative difference of a loss from that of one device, and the bytes of
parameters and optimizer state that the fullest device holds, from the shards that are on it. Exit code 1 where a loss
differs by more than 1e-5, or a device does not hold less with more fsdp or tensor partitions.
"""

import argparse
import itertools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
if __name__ == "__main__":
    # Compiling is most of the work: XLA need not try hard.
    FLAGS = ("--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0")
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS))
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from mixlm.data.loader.batches import as_batch
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.parallel.logical_axes import AXES
from mixlm.parallel.mesh import Partitioning
from mixlm.recipe import Recipe
from mixlm.reports.units import size
from mixlm.training.prepare import prepare

RECIPES = sorted(path.stem for path in (ROOT / "gin").glob("*.gin") if path.stem not in ("base", "evaluate", "study"))
STEPS, DEVICES, TOLERANCE = 10, 8, 1e-5
# By whether they are short: what every mesh divides, and what span corruption makes of so much text.
LENGTHS = ({"targets": 256}, {"targets": 64})
FOLDED = ({"inputs": 256, "targets": 58}, {"inputs": 64, "targets": 14})
NETWORK = {"emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64}
DEPTH = ("num_layers", "num_encoder_layers", "num_decoder_layers")


def small(name: str, *bindings: str, short: bool = False) -> Recipe:
    """A recipe with networks of one layer and ten steps, of which its second stage takes the last five.

    Its rows are longer than the block of positions that the head scores at a time, unless they shall be `short`.
    """
    given = ["VOCAB_SIZE=256", f"TRAIN_STEPS={STEPS}", "BATCH_SIZE=8", "MODEL_DIR=nowhere"]
    given += [*(["TAU=5"] if name in ("spactor", "ar2diff") else []), *bindings]
    given += ["WARMUP_STEPS=2"] if name in ("antlm", "mile") else []
    flags = parse_flags([f"--gin_file={name}.gin", *(f"--gin.{binding}" for binding in given)], "")
    recipe = configured(flags, Recipe)
    lengths = LENGTHS[short] if "inputs" not in recipe.lengths else FOLDED[short]

    def shrunk(module: Any) -> Any:
        given = {field.name for field in fields(module)}
        sizes = {name: value for name, value in NETWORK.items() if name in given}
        return module.clone(**sizes, **{name: 1 for name in DEPTH if name in given})

    networks = {network: shrunk(module) for network, module in recipe.networks.items()}
    return replace(recipe, networks=networks, lengths=lengths, validation=())


def meshes(devices: int = DEVICES) -> list[Partitioning]:
    """All meshes of so many devices."""
    sizes = [size for size in range(1, devices + 1) if devices % size == 0]
    found = itertools.product(sizes, repeat=len(AXES))
    return [Partitioning(**dict(zip(AXES, each))) for each in found if np.prod(each) == devices]


def steps_on(recipe: Recipe, mesh: Partitioning, devices: Sequence[Any]) -> tuple[list[float], int, int]:
    """(the loss of each step, the bytes of parameters and of optimizer state on the fullest device)."""
    prepared = prepare(replace(recipe, partitioning=mesh), None, devices=list(devices))
    try:
        state, losses, draw = prepared.init_state(), [], np.random.default_rng(0)
        for step in range(STEPS):
            rows = draw.integers(5, 150, (recipe.batch_size, recipe.before + recipe.block_length)).astype(np.int32)
            executable = prepared.train_step[prepared.recipe.stages.at(step).objective]
            batch = prepared.shard_batch(as_batch(rows, recipe.before))
            state, figures = executable(state, batch, prepared.scalar(recipe.seed))
            losses.append(float(figures["loss"]))
        return losses, held(state.params), held(state.opt_state)
    finally:
        prepared.close()


def held(tree: Any) -> int:
    """The bytes of a tree on the device that has most of them."""
    found: dict[Any, int] = defaultdict(int)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            found[shard.device] += shard.data.nbytes
    return max(found.values())


def difference(losses: Sequence[float], wanted: Sequence[float]) -> float:
    """The largest relative difference of a step's loss."""
    return max(abs(loss / want - 1) for loss, want in zip(losses, wanted, strict=True))


def measured(name: str, shapes: Sequence[Partitioning]) -> list[dict[str, Any]]:
    """A line of the table for each mesh, the first for one device."""
    recipe, lines = small(name), []
    one = Partitioning(data=1)
    wanted, *whole = steps_on(recipe, one, jax.devices()[:1])
    for mesh in (one, *shapes):
        start = time.perf_counter()
        losses, *bytes_held = (wanted, *whole) if mesh is one else steps_on(recipe, mesh, jax.devices())
        line = {"recipe": name} | {axis: getattr(mesh, axis) for axis in AXES}
        line |= {"difference": difference(losses, wanted), "parameters": bytes_held[0], "optimizer": bytes_held[1]}
        lines.append(line | {"last_loss": losses[-1], "seconds": round(time.perf_counter() - start, 1)})
        print(shown(line), flush=True)
    return lines


def shown(line: dict[str, Any]) -> str:
    """A line of the table."""
    mesh = " x ".join(f"{line[axis]}" for axis in AXES)
    return (
        f"{line['recipe']:<15} {mesh:<14} {line['difference']:>10.1e} "
        f"{size(line['parameters']):>11} {size(line['optimizer']):>11}"
    )


def mistakes(lines: Sequence[dict[str, Any]]) -> list[str]:
    """What the table says against the laws: a loss that differs, a device that holds as much as one device alone."""
    found, whole = [], {line["recipe"]: line for line in lines if all(line[axis] == 1 for axis in AXES)}
    for line in lines:
        if not line["difference"] <= TOLERANCE:
            found.append(f"the losses of {shown(line)} differ")
        for part in ("parameters", "optimizer"):
            share = line[part] / whole[line["recipe"]][part]
            # Norms and biases lie on one of the two axes alone, and few are the numbers that no axis cuts.
            if share > 1.3 / (line["fsdp"] * line["tensor"]) + 0.05:
                found.append(f"the {part} of {shown(line)} are {share:.0%} of one device's")
    return found


def main() -> None:
    """Prints the table, writes it, and fails where it breaks a law."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", default=",".join(RECIPES), help="A,B: some of the recipes")
    parser.add_argument(
        "--meshes", default="", help="1x8x1x1,2x2x1x2: some of the meshes (data x fsdp x sequence x tensor)"
    )
    parser.add_argument("--json", type=Path, help="a file for the table")
    asked = parser.parse_args()
    given = [dict(zip(AXES, map(int, mesh.split("x")))) for mesh in asked.meshes.split(",") if mesh]
    print(f"{'recipe':<15} {'mesh':<14} {'difference':>10} {'parameters':>11} {'optimizer':>11}")
    shapes = [Partitioning(**mesh) for mesh in given] or meshes()
    lines = [line for name in asked.recipes.split(",") for line in measured(name, shapes)]
    if asked.json is not None:
        asked.json.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    found = mistakes(lines)
    print("\n".join(found) if found else f"{len(lines)} runs agree.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
