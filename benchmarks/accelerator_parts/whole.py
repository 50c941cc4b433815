"""The grid of studies/dual.gin at ten times its laptop size, as far as the time goes.

    python benchmarks/accelerator_parts/whole.py --seconds=120 --out=whole.json

It is `mixlm sweep`, which goes on where it was stopped; its table lies beside --out as whole.cells.csv.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from cases import ROOT, Results, arguments, environment

STUDY = "studies/dual.gin"
# Ten times the tokens that the study trains each cell on, on a laptop.
BUDGET, TIMES = "BUDGET", 10


def budget() -> int:
    """The study's own number of tokens."""
    lines = (ROOT / STUDY).read_text().splitlines()
    (line,) = (line for line in lines if line.replace(" ", "").startswith(f"{BUDGET}="))
    return int(line.partition("=")[2].partition("#")[0])


def main() -> None:
    """Sweeps until the time is over, then collects."""
    given = arguments(__doc__)
    results = Results(Path(given.out))
    cache = Path(given.cache or Path(given.out).parent / "cache").resolve()
    cache.mkdir(parents=True, exist_ok=True)
    if not (ROOT / STUDY).exists():
        results.put("grid", {"error": f"there is no {STUDY}"})
        return
    begun, folder, log = time.monotonic(), cache / "study", cache / "grid.log"
    times = 1 if given.tiny else TIMES
    mixlm = [sys.executable, "-m", "mixlm"]
    env = {**os.environ, **environment(cache)}
    sweep = [*mixlm, "sweep", f"--gin_file={STUDY}", f"--gin.{BUDGET}={budget() * times}", f"--folder={folder}"]
    with open(log, "w") as written:
        running = subprocess.Popen(sweep, stdout=written, stderr=written, cwd=ROOT, env=env, start_new_session=True)
        try:
            code: int | None = running.wait(timeout=max(given.seconds - 20, 5))
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGTERM)
            try:
                running.wait(timeout=8)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
            code = None
        collected = subprocess.run(
            [*mixlm, "report", str(folder)], stdout=written, stderr=written, cwd=ROOT, env=env, timeout=60, check=False
        )
    found = {"seconds": time.monotonic() - begun, "times": times, "command": " ".join(sweep[1:])}
    table = next(iter(sorted(folder.rglob("cells.csv"))), None)
    if table is not None:
        shutil.copyfile(table, Path(given.out).with_suffix(".cells.csv"))
        rows = table.read_text().splitlines()
        found["rows"] = len(rows) - 1
    said = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])[-600:]
    if code is None:
        found["stopped"] = f"stopped after {given.seconds:.0f} s: {said}"
    elif code or collected.returncode:
        found["error"] = f"exit code {code or collected.returncode}: {said}"
    results.put("grid", found)


if __name__ == "__main__":
    main()
