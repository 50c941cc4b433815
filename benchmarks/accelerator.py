"""What mixlm does on this device, within some minutes: python benchmarks/accelerator.py --minutes=8 --out=OUT.

Four parts, each a script of its own in accelerator_parts/: `right` (kernels, losses and resumes against references),
`fast` (steps of the papers' networks, next to PyTorch), `small` (default recipes, several runs at once) and `whole` (a
study). Each writes OUT/PART.json after every case. The same command goes on where it was stopped: cases that are there
are skipped. OUT/accelerator.json has the device, driver, versions and date.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mixlm import __version__  # noqa: E402
from mixlm.files import read_json, replacing  # noqa: E402

PARTS = ("right", "fast", "small", "whole")
# Ours: shares of the time by what a part is worth; what one part leaves, the next ones have.
SHARES = {"right": 0.28, "fast": 0.45, "small": 0.15, "whole": 0.12}
GRACE = 10.0  # seconds after which a part that goes on beyond its time is ended
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "transformers", "triton")


def circumstances() -> dict[str, Any]:
    """The device, its driver, the versions and the date."""

    def said(*words: str) -> str | None:
        try:
            return subprocess.run(words, capture_output=True, text=True, timeout=20, cwd=ROOT).stdout.strip() or None
        except (OSError, subprocess.TimeoutExpired):
            return None

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    query = "--query-gpu=name,memory.total,driver_version"
    return {
        "date": said("date", "-u", "+%Y-%m-%dT%H:%M:%SZ"),
        "device": said("nvidia-smi", query, "--format=csv,noheader") or platform.processor() or "cpu",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "mixlm": __version__,
        "commit": said("git", "rev-parse", "--short", "HEAD"),
        "versions": versions,
    }


def run_part(name: str, out: Path, cache: Path, seconds: float, tiny: bool) -> str | None:
    """Runs a part for `seconds`; returns how it ended where that was not well."""
    script = ROOT / "benchmarks/accelerator_parts" / f"{name}.py"
    if not script.exists():
        return "is not here"
    command = [sys.executable, str(script), f"--seconds={seconds:.0f}", f"--out={out / name}.json"]
    command += [f"--cache={cache}", *(["--tiny"] if tiny else [])]
    with open(cache / f"{name}.stderr", "w") as written:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
        running = subprocess.Popen(command, stderr=written, cwd=ROOT, start_new_session=True, env=env)
        try:
            code = running.wait(timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGTERM)
            time.sleep(2)
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            return f"was ended after {seconds + GRACE:.0f} s"
    if code:
        return f"ended with exit code {code}: " + (cache / f"{name}.stderr").read_text(errors="replace")[-300:]
    return None


def table(out: Path) -> None:
    """Prints every figure that matters, a line a case."""
    for name in PARTS:
        path = out / f"{name}.json"
        if not path.exists():
            continue
        print(f"-- {name}")
        for case, figures in read_json(path).items():
            print(
                f"{case[:28]:<29}{shown(figures)}"[:200] if isinstance(figures, dict) else f"{case:<29}{figures}"[:200]
            )


def shown(figures: dict[str, Any]) -> str:
    """A case's figures: speed, utilisation and memory where it has them, else whatever is short; an error as it is."""
    if "error" in figures:
        return "ERROR " + str(figures["error"]).replace("\n", " ")[:140]
    units = (
        ("rows", "{} rows"), ("step_seconds", "{:.4f} s a step"), ("tokens_per_second", "{:,.0f} tokens/s"),
        ("tflops", "{:.0f} TFLOP/s"), ("mfu", "MFU {:.3f}"), ("of_peak", "{:.3f} of the peak"),
        ("peak_bytes", "{:,} bytes at most"), ("compile_seconds", "compiled in {:.0f} s"), ("seconds", "{:.0f} s"),
        ("again_runs_a_minute", "{:.1f} runs a minute"), ("loss", "loss {:.3f}"),
    )  # fmt: skip
    parts = [form.format(figures[name]) for name, form in units if figures.get(name) is not None]
    if not parts:
        parts = [f"{key} {value}" for key, value in figures.items() if isinstance(value, str | int | float)]
    return "  ".join(parts)


def main() -> None:
    """Runs the parts, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--cache", metavar="FOLDER", help="executables, runs and logs; OUT/cache by default")
    parser.add_argument("--parts", default=",".join(PARTS), help="such as right,fast")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script on a CPU")
    given = parser.parse_args()
    parts = [name for name in given.parts.split(",") if name]
    if unknown := [name for name in parts if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}: {', '.join(PARTS)}")
    out, until = Path(given.out).resolve(), time.monotonic() + 60 * given.minutes
    cache = Path(given.cache).resolve() if given.cache else out / "cache"
    out.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    path = out / "accelerator.json"
    said = read_json(path) if path.exists() else {"calls": []}
    said["calls"].append(circumstances() | {"minutes": given.minutes, "parts": parts})
    for index, name in enumerate(parts):
        left = until - time.monotonic()
        share = SHARES[name] / sum(SHARES[other] for other in parts[index:])
        print(f"== {name}: {share * left:.0f} s", flush=True)
        begun = time.monotonic()
        ended = run_part(name, out, cache, max(share * left - GRACE / 2, 1), given.tiny)
        said["calls"][-1][name] = {"seconds": round(time.monotonic() - begun, 1), "ended": ended or "well"}
        with replacing(path) as file:
            json.dump(said, file, indent=1)
        if ended:
            print(f"{name} {ended}", flush=True)
    table(out)


if __name__ == "__main__":
    main()
