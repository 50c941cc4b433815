"""How long the default recipes take from the command to the end, and how many small runs a minute at once.

    python benchmarks/accelerator_parts/small.py --seconds=100 --out=small.json

Each recipe is `python launch/train.py --gin_file=NAME.gin`, four at a time, since most of such a run is reading and
compiling; then K runs of dual, with a seed and a share each, as one executable (`mixlm.training.together`).
"""

import concurrent.futures
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cases import LEAST, ROOT, Case, Results, arguments, environment, run_in_turns

from mixlm.errors import UserError
from mixlm.files import parse_json

RECIPES = ("dual", "mile", "spactor", "antlm", "antlm_ltg_bert", "ar2diff", "gpt_bert")
AT_ONCE = 4  # Ours: processes that share the device; a recipe holds less than 2 GB of it.
TOGETHER = (1, 4, 16, 50)
STEPS = 100  # of a run among several


def command(name: str, folder: Path, steps: int | None) -> list[str]:
    """The command of a recipe, whole or cut to some steps."""
    given = [f"--gin_file={name}.gin", f"--gin.MODEL_DIR={str(folder)!r}"]
    return [sys.executable, "launch/train.py", *given, *([f"--gin.TRAIN_STEPS={steps}"] if steps else [])]


def train(name: str, cache: Path, steps: int | None, seconds: float) -> dict[str, Any]:
    """Trains a recipe; its seconds, and the last figures of metrics.jsonl."""
    folder, log, begun = cache / "runs" / f"{name}-{time.time_ns()}", cache / f"{name}.log", time.monotonic()
    with open(log, "w") as written:
        try:
            done = subprocess.run(
                command(name, folder, steps), stdout=written, stderr=written, cwd=ROOT, timeout=seconds,
                env={**os.environ, **environment(cache)}, check=False,
            )  # fmt: skip
            how = None if done.returncode == 0 else f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            how = f"still running after {seconds:.0f} s"
    found: dict[str, Any] = {"seconds": time.monotonic() - begun, "steps_asked": steps}
    metrics = folder / "metrics.jsonl"
    if metrics.exists():
        with contextlib.suppress(UserError):  # a line that was cut off where the run was
            found |= last_figures(metrics.read_bytes())
    if how is not None:
        found["error"] = f"{how}: {' | '.join(log.read_text(errors='replace').strip().splitlines()[-3:])[-600:]}"
    return found


def last_figures(content: bytes) -> dict[str, Any]:
    """The step, the loss, the rate and validation's losses of the last line."""
    line = parse_json(content.strip().splitlines()[-1], "metrics.jsonl", dict)
    names = ("step", "loss", "tokens_per_second", "mfu")
    kept = {name: line[name] for name in names if name in line}
    return kept | {name: line[name] for name in line if name.startswith("validation/") and name.count("/") == 1}


def recipes(results: Results, seconds: float, cache: Path, tiny: bool) -> None:
    """Trains those that are missing, some at a time; they share one vocabulary, behind a file lock."""
    until = time.monotonic() + seconds
    waiting = [name for name in RECIPES if not results.has(name)]
    steps = 4 if tiny else None

    def one(name: str) -> dict[str, Any]:
        left = until - time.monotonic()
        return train(name, cache, steps, left) if left > LEAST else {}

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for done in concurrent.futures.as_completed(running := {pool.submit(one, name): name for name in waiting}):
            if done.result():
                results.put(running[done], done.result())


def main() -> None:
    """Runs what is missing: the recipes, then several runs as one."""
    given = arguments(__doc__)
    results, until = Results(Path(given.out)), time.monotonic() + given.seconds
    cache = Path(given.cache or Path(given.out).parent / "cache").resolve()
    cache.mkdir(parents=True, exist_ok=True)
    if not given.only:
        # Two thirds, so that the second half gets its turn.
        recipes(results, given.seconds * 2 / 3, cache, given.tiny)
    given.seconds = until - time.monotonic()
    counts = TOGETHER[:2] if given.tiny else TOGETHER
    cases = [Case(f"together {k}", "small_together.py", {"runs": k, "steps": STEPS}, seconds=90) for k in counts]
    run_in_turns(cases, results, given)


if __name__ == "__main__":
    main()
