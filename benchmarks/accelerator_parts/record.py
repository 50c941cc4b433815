"""The record of one part: cases in a JSON file, in a process that is started again where a case ends or hangs it.

A part is a script: `main(__doc__, cases)` reads `--seconds` and `--out`, and runs `cases(record)` in a process of its
own. The file is replaced whole after each case. A case that is in it is not run again, so the same command goes on
where it was stopped; a case that took its process with it is noted as such and left out.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 100.0  # Ours: seconds after which a case, compiling included, counts as hung.
GRACE = 5.0  # Ours: seconds past the budget in which the case at hand may still end.


DEVICE = "measured on"
BEGUN = {"begun": True}


class Record:
    """Cases by name, `{NAME: {"said", ..., "took"}}` with their seconds, and `DEVICE`, which they were measured on."""

    def __init__(self, out: Path, until: float, only: tuple[str, ...] = (), tiny: bool = False):
        self.out, self.until, self.only, self.tiny = out, until, only, tiny
        self.content: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
        for name, figures in self.content.items():
            if figures == BEGUN:
                self.content[name] = {"error": "the process ended or hung in this case"}

    @property
    def left(self) -> float:
        """Seconds until the budget is spent."""
        return self.until - time.time()

    def wants(self, name: str) -> bool:
        """True for a case that is asked for and not yet in the file."""
        asked = not self.only or name.startswith(self.only)
        return asked and self.left > 0 and name not in self.content

    def case(self, name: str, run: Callable[[], dict[str, Any]]) -> None:
        """Runs a case unless it is there or time is up, and writes its figures, or the error that it raised."""
        if not self.wants(name):
            return
        self.content[name] = BEGUN
        self._write()
        started = time.perf_counter()
        try:
            found = run()
        except BaseException as error:
            found = {"error": f"{type(error).__name__}: {error}"[:1500], "where": traceback.format_exc()[-700:]}
        said = str(found.get("said") or found.get("error", "")).splitlines() or [""]
        self.content[name] = {"said": said[0][:150]} | found | {"took": round(time.perf_counter() - started, 2)}
        self._write()
        print(f"{name}: {said[0][:150]}", flush=True)

    def head(self, **what: Any) -> None:
        """Notes what the cases are measured on."""
        self.content[DEVICE] = what

    def _write(self) -> None:
        replace(self.out, self.content)


def main(doc: str | None, cases: Callable[[Record], None]) -> None:
    """The command of a part; its process of work is started again after a crash, until all cases are in the file."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--seconds", type=float, default=120.0, help="the budget, compiling included")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file; cases that are in it are not run again")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="keeps executables")
    parser.add_argument("--tiny", action="store_true", help="the small cases alone, to try the script on a CPU")
    parser.add_argument("--only", nargs="*", default=[], metavar="PREFIX", help="the cases whose names begin so")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.until is None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        supervise(time.time() + given.seconds, given.out, given.cache)
        return
    sys.path.insert(0, str(ROOT))
    record = Record(given.out, given.until, tuple(given.only), given.tiny)
    record.head(**described())
    cases(record)
    sys.stdout.flush()
    os._exit(0)  # Threads may still compile what there is no time for.


def supervise(until: float, out: Path, cache: Path | None = None) -> None:
    """Runs this command again as a process of work, until one ends by itself or the budget is spent."""
    # Processes of one device after another, and beside each other: none may take all of its memory at once.
    place = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"} | os.environ
    if cache is not None:
        place |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    child: subprocess.Popen[bytes] | None = None

    def end(*_: object) -> None:
        if child is not None and child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)  # and what it has started
            child.wait()
        unmark(out)
        sys.exit(1)

    signal.signal(signal.SIGTERM, end)
    while time.time() < until:
        child = subprocess.Popen([sys.executable, *sys.argv, f"--until={until}"], env=place, start_new_session=True)
        changed, code = time.time(), None
        while code is None:
            try:
                code = child.wait(1.0)
            except subprocess.TimeoutExpired:
                changed = max(changed, out.stat().st_mtime if out.exists() else 0.0)
                if time.time() > until + GRACE:
                    end()
                if time.time() > changed + PATIENCE:
                    os.killpg(child.pid, signal.SIGKILL)
        if code == 0:
            return
        print(f"the process of work ended with {code}", flush=True)


def unmark(out: Path) -> None:
    """Takes the case at hand out of the file: the budget ended it, and nothing else."""
    if out.exists():
        found = {name: figures for name, figures in json.loads(out.read_text()).items() if figures != BEGUN}
        replace(out, found)


def replace(out: Path, content: dict[str, Any]) -> None:
    """Writes the file whole."""
    beside = out.with_name(f"{out.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, out)


def described() -> dict[str, Any]:
    """The device, the versions and the day."""
    import jax
    import jaxlib

    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "platform_version": str(getattr(device.client, "platform_version", ""))[:200],
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": sys.version.split()[0],
        "flags": os.environ.get("XLA_FLAGS", ""),
        "date": time.strftime("%Y-%m-%d"),
    }
