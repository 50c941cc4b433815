"""What saving costs: steps with a save every so many against steps without, in one process.

python benchmarks/checkpoint.py [--width=512] [--layers=4] [--steps=60] [--every=20] [--repeats=3] [--output=FILE.json]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mixlm.checkpoints.saving import Checkpoints, size_in_bytes
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.objectives.causal import Causal
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.schedules import Constant
from mixlm.tokens import TokenIds
from mixlm.training.initial_state import initial_state
from mixlm.training.step import TrainStep

TOKENS = TokenIds(8192, mask=4, bos=3)


def main() -> None:
    """Times both kinds of stretches in turn, prints a table and writes the figures as JSON."""
    given = parse()
    step, create = network(given.width, given.layers)
    state_bytes = size_in_bytes(jax.eval_shape(create))
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        batch = np.random.default_rng(0).integers(5, 8000, (given.rows, given.length), np.int32)
        run = partial(stretch, partial(step, batch={"tokens": batch}, seed=0), given.steps)
        state, _, _ = run(create(), None, 1)  # compiles
        plain, saving, blocked = [], [], []
        checkpoints = Checkpoints(Path(folder) / "checkpoints", keep=1)
        for _ in range(given.repeats):
            state, seconds, _ = run(state, None, given.every)
            plain.append(seconds)
            state, seconds, waits = run(state, checkpoints, given.every)
            saving.append(seconds)
            blocked += waits
        checkpoints.close()
        on_disk = sum(path.stat().st_size for path in checkpoints.folder.rglob("*") if path.is_file())
    # Orbax is imported and its threads are started by the first save.
    first, *others = blocked
    figures = {
        "device": jax.devices()[0].device_kind,
        "state_bytes": state_bytes,
        "bytes_on_disk": on_disk,
        "steps": given.steps,
        "every": given.every,
        "step_ms": 1000 * statistics.median(plain) / given.steps,
        "step_ms_with_saves": 1000 * statistics.median(saving) / given.steps,
        "ratio": statistics.median(saving) / statistics.median(plain),
        "first_save_blocks_ms": 1000 * first["save"],
        "save_blocks_ms": 1000 * statistics.median(wait["save"] for wait in others or blocked),
        "former_save_waited_for_ms": 1000 * statistics.median(wait["former"] for wait in others or blocked),
    }
    for name, value in figures.items():
        print(f"{name:<26}  {value:,.3f}" if isinstance(value, float) else f"{name:<26}  {value}")
    if given.output:
        Path(given.output).write_text(json.dumps(figures | {"plain_s": plain, "saving_s": saving}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"width": 512, "layers": 4, "rows": 8, "length": 128, "steps": 60, "every": 20, "repeats": 3}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", help="where the checkpoints are written; default: the system's temporary folder")
    parser.add_argument("--output", help="a JSON file for the figures")
    return parser.parse_args()


def network(width: int, layers: int) -> tuple[Callable[..., Any], Callable[[], Any]]:
    """A decoder's jitted step, its state donated as in a run, and what makes its first state."""
    module = DecoderOnly(
        vocab_size=TOKENS.vocab_size,
        emb_dim=width,
        num_heads=8,
        head_dim=width // 8,
        mlp_dim=4 * width,
        num_layers=layers,
    )
    modules, optimizer = {"model": module}, Optimizer(AdamW(), Constant(1e-3))
    create, _ = initial_state(modules, optimizer, 0, Partitioning().mesh())
    step = TrainStep(tuple(modules.items()), optimizer)
    return jax.jit(partial(step, objective=Causal(TOKENS)), donate_argnums=0), create


def stretch(
    step: Callable[..., Any], steps: int, state: Any, checkpoints: Checkpoints | None, every: int
) -> tuple[Any, float, list[dict[str, float]]]:
    """Returns (the state after `steps` steps, the seconds they took, how long each save kept them from going on)."""
    waits: list[dict[str, float]] = []
    begun = time.perf_counter()
    for done in range(1, steps + 1):
        state, _ = step(state)
        if checkpoints is None or done % every:
            continue
        jax.block_until_ready(state)
        before = time.perf_counter()
        checkpoints.wait()
        waited = time.perf_counter()
        checkpoints.save(int(state.step), state)
        waits.append({"former": waited - before, "save": time.perf_counter() - waited})
    jax.block_until_ready(state)
    return state, time.perf_counter() - begun, waits


if __name__ == "__main__":
    main()
