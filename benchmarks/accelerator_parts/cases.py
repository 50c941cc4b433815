"""Cases of a part: each in a process of its own with a time limit, its figures in one JSON file replaced after each."""

import argparse
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from mixlm.files import read_json, replacing  # noqa: E402

# Ours: a child that waits for the device holds nothing on it but its context; two ahead hide their imports and traces.
AHEAD = 2
STUCK = 30.0  # Ours: seconds after which a child writes where it is, and again after as many.
LEAST = 12.0  # Ours: seconds under which no case is begun


def arguments(described: str | None) -> argparse.Namespace:
    """The options that all parts have in common; SIGTERM ends a part with its children from here on."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=described)
    parser.add_argument("--seconds", type=float, default=600.0, help="stop by then")
    parser.add_argument("--out", required=True, metavar="FILE.json")
    parser.add_argument("--cache", metavar="FOLDER", help="executables and logs; beside --out by default")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script on a CPU")
    parser.add_argument("--only", nargs="*", metavar="CASE", help="these cases alone")
    return parser.parse_args()


@dataclass(frozen=True)
class Case:
    """A case: `script` beside this file is given `settings` as JSON; `seconds` it may take once the device is its."""

    name: str
    script: str
    settings: Mapping[str, Any]
    seconds: float = 90.0
    like: str | None = None  # the case whose figures it is given when the device is its
    environment: Mapping[str, str] = field(default_factory=dict)


class Results:
    """The figures of cases by name, in a file that is replaced whole after each."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, Any] = read_json(path) if path.exists() else {}

    def has(self, name: str) -> bool:
        """True for a case that ended well."""
        return name in self.found and "error" not in self.found[name]

    def put(self, name: str, figures: Mapping[str, Any]) -> None:
        """Adds a case, and says it in one line."""
        self.found[name] = dict(figures)
        with replacing(self.path) as file:
            json.dump(self.found, file, indent=1)
        print(f"{name:<22}{said(figures)}", flush=True)


def said(figures: Mapping[str, Any]) -> str:
    """Figures on one line, as wide as a terminal."""
    shown = [f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, float)]
    shown += [f"{name} {value}" for name, value in figures.items() if isinstance(value, str | int)]
    return "  ".join(shown)[:150].replace("\n", " ")


class Child:
    """A process that prepares itself, and goes on once it is told that the device is its."""

    def __init__(self, case: Case, cache: Path, tiny: bool):
        self.answer, self.log = cache / f"{case.name}.json", cache / f"{case.name}.log"
        self.answer.unlink(missing_ok=True)
        settings = json.dumps({**case.settings, "tiny": tiny})
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / case.script), settings, str(self.answer)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, text=True,
                start_new_session=True, env={**os.environ, **environment(cache), **case.environment},
            )  # fmt: skip

    def run(self, like: Mapping[str, Any] | None, seconds: float) -> dict[str, Any]:
        """The figures that the child answers within `seconds`, or the error that it ended with."""
        try:
            self.process.communicate(json.dumps(like) + "\n", timeout=seconds)
            how = f"exit code {self.process.returncode}"
        except subprocess.TimeoutExpired:
            self.stop()
            how = f"still running after {seconds:.0f} s"
        found = read_json(self.answer) if self.answer.exists() else {}
        if found.get("done"):
            return {name: value for name, value in found.items() if name != "done"}
        return {**found, "error": found.get("error") or f"{how}: {self.last_words()}"}

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-4:])[-800:]

    def stop(self) -> None:
        """Ends the child and everything that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def environment(cache: Path) -> dict[str, str]:
    """Variables of a child: both frameworks keep executables, and JAX takes memory of the device as it needs it."""
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # A child that waits holds no memory, and one that runs may have nearly all of it (JAX's default is 0.75).
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.93",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def run_in_turns(cases: Sequence[Case], results: Results, given: argparse.Namespace) -> None:
    """Runs the cases that are missing, one at a time on the device, while the next ones import and trace."""
    until = time.monotonic() + given.seconds
    cache = Path(given.cache or Path(given.out).parent / "cache").resolve()
    cache.mkdir(parents=True, exist_ok=True)
    chosen = [case for case in cases if not given.only or case.name in given.only]
    # What failed in an earlier call comes after what was never tried.
    waiting = [case for case in chosen if case.name not in results.found]
    waiting += [case for case in chosen if case.name in results.found and not results.has(case.name)]
    children: dict[str, Child] = {}
    try:
        while waiting and until - time.monotonic() > LEAST:
            for case in waiting[: AHEAD + 1]:
                if case.name not in children:
                    children[case.name] = Child(case, cache, given.tiny)
            case = waiting.pop(0)
            limit = min(case.seconds, until - time.monotonic())
            figures = children.pop(case.name).run(results.found.get(case.like or ""), limit)
            if "still running" in figures.get("error", "") and limit < case.seconds:
                break  # It was not the case's fault: the next call tries again.
            results.put(case.name, figures)
    finally:
        for child in children.values():
            child.stop()


class Device:
    """A child's side: settings in, figures out."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = json.loads(sys.argv[1])
        self.figures: dict[str, Any] = {}

    def wait(self) -> Any:
        """Waits until the device is free; returns the figures of the case that this one is to be like."""
        like = json.loads(sys.stdin.readline())
        self.began = time.monotonic()
        # Where a case hangs is in its log.
        faulthandler.dump_traceback_later(STUCK, repeat=True)
        return like

    def note(self, **figures: Any) -> None:
        """Adds figures, which survive whatever comes after."""
        self.figures |= figures
        with replacing(Path(sys.argv[2])) as file:
            json.dump(self.figures, file)

    def done(self) -> None:
        """Ends well."""
        self.note(seconds=time.monotonic() - self.began, done=True)


def out_of_memory(error: BaseException) -> bool:
    """True for an error of either framework's allocator or compiler that says that memory ran out."""
    return any(word in str(error) for word in ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory"))
