"""A run that is killed again and again ends as if nothing had happened: python benchmarks/soak.py --kills=50.

A toy of spactor.gin is trained twice by the command that a user types: once in peace, and once with SIGKILL at random
moments (seeded): while it starts, steps, saves. Each time the same command starts it again. At the end the parameters
and the optimizer's state must be the same to the bit, and metrics.jsonl the same but for the speed.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

LAUNCH = Path(__file__).resolve().parents[1] / "launch" / "train.py"
STARTING = 0.2  # The share of kills that come before a start has taken its first step.
# Some thousand parameters, saved every few steps, with a switch of objectives and many epochs on the way.
TOY = {
    "EMB_DIM": 16,
    "EncoderDecoder.num_heads": 2,
    "EncoderDecoder.head_dim": 8,
    "EncoderDecoder.mlp_dim": 32,
    "EncoderDecoder.num_encoder_layers": 1,
    "EncoderDecoder.num_decoder_layers": 1,
    "DecoderOnly.emb_dim": 16,
    "DecoderOnly.num_heads": 2,
    "DecoderOnly.head_dim": 8,
    "DecoderOnly.mlp_dim": 32,
    "DecoderOnly.num_layers": 1,
    "VOCAB_SIZE": 1024,
    "BATCH_SIZE": 4,
    "TASK_FEATURE_LENGTHS": '{"inputs": 32, "targets": 8}',
    "UNIQUE_TOKENS": 16000,
    "LOG_PERIOD": 1,
    "EVAL_PERIOD": 50,
    "EVAL_BATCHES": 1,
    "CHECKPOINT_PERIOD": 7,
}


@dataclass(frozen=True)
class Kill:
    """One kill: its moment, the last step in the record then, and the step after which the next start went on.

    `resumed` is None where the next start was killed before it went on; what was done again is counted where one did.
    """

    moment: str
    step: int
    resumed: int | None = None
    again: int = 0

    def followed_by(self, said: str) -> "Kill":
        """The kill, with what the next start said."""
        if found := re.search(r"resuming after step (\d+)", said):
            return replace(self, resumed=int(found[1]), again=self.step - int(found[1]))
        return replace(self, resumed=0, again=self.step) if "compiling the first step" in said else self


def main() -> None:
    """Runs both, compares, prints a table and writes it as JSON; exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("soak.json"), help="where the result is written")
    parser.add_argument(
        "--keep", type=Path, help="a new folder for both runs, which stays; by default they are removed"
    )
    asked = parser.parse_args()
    if asked.keep is not None and asked.keep.exists():
        sys.exit(f"error: {asked.keep} exists; --keep needs a new folder.")
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        begun = time.monotonic()
        peace = folder / "peace"
        finish(peace, asked.steps)
        took = time.monotonic() - begun
        kills = kill_on_and_on(folder / "killed", asked.steps, asked.kills, random.Random(asked.seed))
        differing = differences(peace, folder / "killed", asked.steps)
    finally:
        if asked.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    report(kills, differing, asked, took, time.monotonic() - begun - took)
    sys.exit(1 if differing else 0)


def start(folder: Path, steps: int) -> subprocess.Popen[str]:
    """Starts the run, or goes on with it."""
    settings = {**TOY, "TRAIN_STEPS": steps, "TAU": steps // 2, "MODEL_DIR": folder}
    command = [sys.executable, "-u", str(LAUNCH), "--gin_file=spactor.gin"]
    command += [f"--gin.{name}={value}" for name, value in settings.items()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(folder: Path, steps: int) -> str:
    """Lets the run come to its end, and returns what it said."""
    process = start(folder, steps)
    said, _ = process.communicate()
    if process.returncode:
        sys.exit(f"error: the run ended with {process.returncode}:\n{said}")
    return said


def kill_on_and_on(folder: Path, steps: int, count: int, draw: random.Random) -> list[Kill]:
    """Kills the run `count` times, the next time a little later, and lets it end."""
    # Where in the run each kill falls; a start's first second or two is a moment like any other.
    marks = sorted(draw.randrange(1, steps) for _ in range(count))
    kills: list[Kill] = []
    for mark in marks:
        process = start(folder, steps)
        moment = wait_until(process, folder, mark, draw)
        process.kill()
        said, _ = process.communicate()
        if process.returncode != -9:
            sys.exit(f"error: the run was to be killed and ended with {process.returncode}:\n{said}")
        if kills:
            kills[-1] = kills[-1].followed_by(said)
        kills.append(Kill(moment, last_step(folder)))
        print(f"kill {len(kills):>3}  {moment:<9}  after step {kills[-1].step}", flush=True)
    said = finish(folder, steps)
    return [*kills[:-1], kills[-1].followed_by(said)]


def wait_until(process: subprocess.Popen[str], folder: Path, mark: int, draw: random.Random) -> str:
    """Returns the moment's name when it has come."""
    if draw.random() < STARTING:
        time.sleep(draw.uniform(0, 6))
        return "starting"
    while process.poll() is None and last_step(folder) < mark:
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.1))  # anywhere in a step, or in the save that it began
    saving = any(".orbax-checkpoint-tmp" in path.name for path in (folder / "checkpoints").glob("*"))
    return "saving" if saving else "stepping"


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the speed; a line that is being written is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in found]


def last_step(folder: Path) -> int:
    """The last step in the record."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 4096, 0))
        steps = re.findall(rb'\{"step": (\d+),.*\}\n', file.read())
    return int(steps[-1]) if steps else 0


def differences(peace: Path, killed: Path, steps: int) -> list[str]:
    """What the two runs do not share."""
    import orbax.checkpoint as ocp

    found = []
    left, right = records(peace), records(killed)
    if [line["step"] for line in right] != list(range(1, steps + 1)):
        found.append("metrics.jsonl misses or repeats a step")
    found += [f"metrics.jsonl at step {one['step']}" for one, other in zip(left, right) if one != other]
    warnings.filterwarnings("ignore", "Sharding info")  # Both are read on the device that wrote them.
    states = [
        ocp.PyTreeCheckpointer().restore(folder / "checkpoints" / str(steps) / "default") for folder in (peace, killed)
    ]
    named = [dict(leaves(state)) for state in states]
    if named[0].keys() != named[1].keys():
        found.append("the checkpoints hold other arrays")
    found += [f"the last checkpoint's {name}" for name, value in named[0].items() if named[1].get(name, b"") != value]
    return found


def leaves(tree: Any, path: str = "") -> list[tuple[str, bytes]]:
    """The bytes of every array by its path."""
    if isinstance(tree, dict):
        return [pair for name, branch in tree.items() for pair in leaves(branch, f"{path}/{name}")]
    if isinstance(tree, list | tuple):
        return [pair for place, branch in enumerate(tree) for pair in leaves(branch, f"{path}/{place}")]
    return [] if tree is None else [(path, np.asarray(tree).tobytes())]


def report(kills: list[Kill], differing: list[str], asked: argparse.Namespace, peace: float, killed: float) -> None:
    """Prints the table and writes the JSON."""
    print(f"\n{'kill':>4}  {'moment':<9} {'after step':>10} {'went on at':>11} {'steps again':>12}")
    for number, kill in enumerate(kills, 1):
        resumed = "-" if kill.resumed is None else kill.resumed
        print(f"{number:>4}  {kill.moment:<9} {kill.step:>10} {resumed:>11} {kill.again:>12}")
    moments = {name: sum(kill.moment == name for kill in kills) for name in ("starting", "stepping", "saving")}
    result = {
        "kills": len(kills),
        "moments": moments,
        "steps": asked.steps,
        "steps_again": sum(kill.again for kill in kills),
        "seed": asked.seed,
        "seconds_in_peace": round(peace, 1),
        "seconds_with_kills": round(killed, 1),
        "cpus": os.cpu_count(),
        "differences": differing,
        "each": [asdict(kill) for kill in kills],
    }
    asked.json.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"\n{len(kills)} kills ({', '.join(f'{count} {name}' for name, count in moments.items())}) in {asked.steps} "
        f"steps, {result['steps_again']} steps taken again; {killed:.0f} s against {peace:.0f} s in peace."
    )
    print("Nothing differs." if not differing else "DIFFERENT: " + "; ".join(differing[:10]))


if __name__ == "__main__":
    main()
