"""What the loop costs, and how soon a run begins: python benchmarks/loop.py [--recipes=mile,dual] [--json=FILE].

Steady state: stretches of the loop that a run consists of (batches read and placed, figures fetched, lines written,
checkpoints saved) in turn with stretches of the same compiled step alone, on one batch that stays on the device.
Start: the time from the command to the first line of progress, with an empty cache of executables and with a full one.
Sweep: in a sweep in one process, the time from a cell's own line to its first line of progress, for each cell.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
sys.path.insert(0, str(LAUNCH))
NEVER = 10**6  # Steps that are not reached.
AXES = {"mile": "GAMMA=0,0.5,1", "dual": "ALPHA=0.25,0.5,0.75", "spactor": "LAMBDA1=1,10,50"}  # compiled once each


def main() -> None:
    """Measures both, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="mile,dual,spactor")
    parser.add_argument("--steps", type=int, default=25, help="of a stretch")
    parser.add_argument("--rounds", type=int, default=8, help="of a stretch of each kind")
    parser.add_argument("--starts", type=int, default=3, help="with a full cache; 0 measures no start and no sweep")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    asked = parser.parse_args()
    found: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIXLM_CACHE"] = str(Path(folder) / "cache")
        for name in asked.recipes.split(","):
            steady = overhead(name, Path(folder) / name, asked.steps, asked.rounds)
            found[name] = steady
            if asked.starts:
                found[name] |= starts(name, Path(folder), asked.starts)
                found[name] |= {"sweep_cell_first_step_s": cells(name, Path(folder) / f"{name}-sweep")}
            print(name, *(f"  {key:<28} {shown(value)}" for key, value in found[name].items()), sep="\n", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def shown(value: Any) -> str:
    """A figure with four digits, a list of them in a row."""
    return " ".join(f"{each:.4g}" for each in value) if isinstance(value, list) else f"{value:.4g}"


def overhead(name: str, folder: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Tokens per second of the loop and of its step alone; the ratio is the median of the rounds."""
    import jax

    from mixlm.checkpoints.run_dir import RunDir
    from mixlm.checkpoints.saving import Checkpoints
    from mixlm.data.loader.batches import Batches
    from mixlm.gin_config.build import configured
    from mixlm.gin_config.flags import parse_flags
    from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
    from mixlm.recipe import Recipe
    from mixlm.training.loop import Loop
    from mixlm.training.prepare import prepare
    from mixlm.training.signals import Signals

    # Validation is other work, so it never comes; nor does a second stage, whose step is another one.
    settings = {"MODEL_DIR": folder, "TRAIN_STEPS": NEVER, "EVAL_PERIOD": NEVER}
    settings |= {"TAU": NEVER} if name in ("spactor", "ar2diff") else {}
    given = [f"--gin.{key}={value}" for key, value in settings.items()]
    recipe = configured(parse_flags([f"--gin_file={name}.gin", *given], ""), Recipe)
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_in(recipe.dataset.cache / EXECUTABLES))
        prepared = prepare(recipe, recipe.dataset.prepare(lambda _: None))
        recipe, run = prepared.recipe, RunDir(recipe.folder)
        run.acquire(recipe.identity(), "")
        checkpoints = Checkpoints(run.checkpoints, recipe.keep)
        loop = Loop(prepared, run, checkpoints, lambda _: None, Signals())
        batches = Batches(prepared.train_blocks, recipe.batch_size, before=recipe.before).iterate(0)
        alone, looped, state, other, done = [], [], prepared.init_state(), prepared.init_state(), 0
        stack.callback(run.release)
        stack.callback(prepared.close)
        stack.callback(checkpoints.close)
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        loop.begin(0, {}, stack)
        batch = prepared.shard_batch(Batches(prepared.train_blocks, recipe.batch_size, before=recipe.before).batch(0))
        step = prepared.train_step[recipe.objectives[0]]
        for _ in range(rounds + 1):
            jax.block_until_ready(other)
            begun = time.perf_counter()
            for _ in range(steps):
                other, _ = step(other, batch, prepared.seed)
            jax.block_until_ready(other)
            alone.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            done, state = loop.steps(done, state, islice(batches, steps))
            jax.block_until_ready(state)
            looped.append(time.perf_counter() - begun)
        checkpoints.wait()
    # The first round of each warms up.
    tokens = steps * recipe.batch_size * recipe.block_length
    bare, whole = statistics.median(alone[1:]), statistics.median(looped[1:])
    low, middle, high = statistics.quantiles((b / a for a, b in zip(alone[1:], looped[1:])), n=4)
    return {
        "step_ms": 1000 * bare / steps,
        "loop_ms": 1000 * whole / steps,
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "tokens_per_second_bare": tokens / bare,
        "tokens_per_second_loop": tokens / whole,
        "bare_s": alone[1:],
        "loop_s": looped[1:],
    }


def starts(name: str, folder: Path, count: int) -> dict[str, Any]:
    """Seconds from the command to the first step, and to the words that come before compiling."""
    cache = Path(os.environ["MIXLM_CACHE"])
    shutil.rmtree(cache / "executables", ignore_errors=True)
    cold = start(name, folder / f"{name}-cold")
    warm = [start(name, folder / f"{name}-warm{index}") for index in range(count)]
    return {
        "cold_first_step_s": cold[1],
        "cold_before_compiling_s": cold[0],
        "warm_first_step_s": statistics.median(seconds for _, seconds in warm),
        "warm_before_compiling_s": statistics.median(seconds for seconds, _ in warm),
    }


def start(name: str, folder: Path) -> tuple[float, float]:
    """Starts a run and kills it after its first step; the text is prepared already."""
    command = [sys.executable, str(LAUNCH / "train.py"), f"--gin_file={name}.gin", f"--gin.MODEL_DIR={folder}"]
    begun, spoke = time.perf_counter(), 0.0
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in run.stdout or ():
            if "compiling the first step" in line:
                spoke = time.perf_counter() - begun
            if re.match(r"\s*1/\d+ ", line):
                return spoke, time.perf_counter() - begun
    finally:
        run.kill()
        run.wait()
    raise RuntimeError(f"{' '.join(command)} ended before its first step.")


def cells(name: str, folder: Path) -> list[float]:
    """Seconds from each cell's line to its first step, of a sweep of two steps a cell."""
    command = [sys.executable, str(LAUNCH / "sweep.py"), f"--gin_file={name}.gin", f"--sweep.{AXES[name]}"]
    command += [f"--gin.STUDY_FOLDER={folder}", "--gin.TRAIN_STEPS=2", "--gin.LOG_PERIOD=1", "--gin.EVAL_PERIOD=2"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    begun, found = 0.0, []
    for line in run.stdout or ():
        if re.match(r"\d+/\d+  \S+=", line):
            begun = time.perf_counter()
        elif re.match(r"\s*1/\d+ ", line):
            found.append(time.perf_counter() - begun)
    if run.wait() != 0:
        raise RuntimeError(f"{' '.join(command)} failed.")
    return found


if __name__ == "__main__":
    main()
