"""What `mixlm evaluate` and `mixlm decode` take: python benchmarks/evaluate.py [--recipes=dual,spactor] [--json=FILE].

A run of each recipe is trained for a few steps, with its default sizes. Its text and minimal pairs are then scored with
all defaults, at first with an empty cache of executables and then with a full one, and a prompt is continued. Beside
the wall time of each command stand the CPU seconds of its user time, and when its first line of each kind came: `text`
is what evaluate says once it is ready to score, `prompt` the first continuation of decode.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
FIRST = ("text", "prompt")


def main() -> None:
    """Trains, scores and decodes each recipe; prints the figures and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="dual,spactor")
    parser.add_argument("--steps", type=int, default=4, help="of training, which figures do not depend on")
    parser.add_argument("--minimal_pairs", default="made:0", help="a folder of BLiMP, or made:SEED")
    parser.add_argument("--pairs", type=int, default=20, help="of each paradigm")
    parser.add_argument("--flags", default="", help="more flags of evaluate, with blanks, such as --all")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    asked = parser.parse_args()
    found: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIXLM_CACHE"] = str(Path(folder) / "cache")
        for name in asked.recipes.split(","):
            found[name] = {}
            for what, figures in measured(name, Path(folder) / name, asked):
                found[name][what] = figures
                print(f"{name:<10}{what:<16}", *(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def measured(name: str, run: Path, asked: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """The figures of each command on a run of one recipe."""
    train = ["train", f"--gin_file={name}.gin", f"--gin.MODEL_DIR={run}", f"--gin.TRAIN_STEPS={asked.steps}"]
    yield "train", timed([*train, f"--gin.EVAL_PERIOD={asked.steps}", "--gin.EVAL_BATCHES=1"])
    pairs = [f"--gin.MINIMAL_PAIRS={asked.minimal_pairs}", f"--gin.PAIRS={asked.pairs}", *asked.flags.split()]
    prompt = "--prompt=The Congress of the" + (" <extra_id_0> States" if name == "spactor" else "")
    for state in ("cold", "warm"):
        yield f"evaluate, {state}", timed(["evaluate", f"--gin.MODEL_DIR={run}", *pairs])
    for state in ("cold", "warm"):
        yield f"decode, {state}", timed(["decode", f"--gin_file={run}/config.gin", f"--gin.MODEL_DIR={run}", prompt])


def timed(arguments: Sequence[str]) -> dict[str, float]:
    """Seconds of a command: wall, user, and until its first lines of a kind."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.perf_counter()
    found: dict[str, float] = {}
    command = [sys.executable, str(LAUNCH / f"{arguments[0]}.py"), *arguments[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            word = line.partition(" ")[0]
            if word in FIRST:
                found.setdefault(word, time.perf_counter() - begun)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}.")
    found["wall"] = time.perf_counter() - begun
    return found | {"user": resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before}


if __name__ == "__main__":
    main()
