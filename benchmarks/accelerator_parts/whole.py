"""The grid of studies/dual.gin with a network of ten times the laptop's parameters, as far as the time goes.

    python benchmarks/accelerator_parts/whole.py --seconds=120 --out=whole.json

It is `mixlm sweep` over one seed, several cells at once where it can, and goes on where it was stopped. Its table lies
beside --out as whole.cells.csv.
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
# Ours: 2.5 million parameters in three layers of 256, next to 0.27 of the study's 80; the text is too short for more
# tokens.
LARGER = ("EMB_DIM=256", "Llama.num_heads=8", "Llama.head_dim=32", "Llama.mlp_dim=768", "DTYPE='bfloat16'")
COLLECTING = 25.0  # Ours: seconds that are left for the table
TOGETHER = 24  # cells at once: one seed's grid


def command(folder: Path, tiny: bool) -> list[str]:
    """The sweep, without the option that says how many cells are trained at once, if this version has none."""
    mixlm = [sys.executable, "-m", "mixlm", "sweep"]
    known = subprocess.run([*mixlm, "--help"], capture_output=True, text=True, cwd=ROOT, check=False).stdout
    given = [f"--gin_file={STUDY}", f"--gin.STUDY_FOLDER={str(folder)!r}", "--seeds=1"]
    given += ["--gin.SMALL=True", "--gin.TRAIN_STEPS=4"] if tiny else [f"--gin.{value}" for value in LARGER]
    return [*mixlm, *given, *([f"--together={TOGETHER}"] if "--together" in known and not tiny else [])]


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
    env = {**os.environ, **environment(cache)}
    sweep = command(folder, given.tiny)
    with open(log, "w") as written:
        running = subprocess.Popen(sweep, stdout=written, stderr=written, cwd=ROOT, env=env, start_new_session=True)
        try:
            code: int | None = running.wait(timeout=max(given.seconds - COLLECTING, 5))
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGTERM)  # it saves, so that the next call goes on from there
            try:
                running.wait(timeout=8)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
            code = None
        done = subprocess.run(
            [*sweep, "--collect"], stdout=written, stderr=written, cwd=ROOT, env=env, timeout=60, check=False
        ).returncode
    found = {"seconds": time.monotonic() - begun, "command": " ".join(sweep[1:])}
    table = next(iter(sorted(folder.rglob("cells.csv"))), None)
    if table is not None:
        shutil.copyfile(table, Path(given.out).with_suffix(".cells.csv"))
        rows = table.read_text().splitlines()
        found["rows"] = len(rows) - 1
        found["cells_done"] = sum(",done," in row and ",True," in row for row in rows)
    said = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])[-600:]
    if code is None:
        found["stopped"] = f"stopped after {given.seconds:.0f} s: {said}"
    elif code or done:
        found["error"] = f"exit code {code or done}: {said}"
    results.put("grid", found)


if __name__ == "__main__":
    main()
