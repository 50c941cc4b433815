"""Odd inputs for train, evaluate and decode by the hundred: python benchmarks/fuzz.py --count=500.

Each input is made from the seed and its number, and given to a command as a user would: values for gin macros by their
type, folders of text, JSON lines, minimal pairs, prompts, and runs in which one file is damaged (benchmarks/inputs.py).
An input passes where the command
- ends within 60 s (`--limit`, as a shared machine needs more), with exit code 0 or 2, and no traceback,
- says one sentence that begins with "error:" if the code is 2, and none if it is 0,
- refuses what is surely wrong and takes what is surely right, where the input says that it is one of them,
- and loses nothing: texts, whole lines of metrics and whole checkpoints are there as before, and nothing outside of the
  run's folder was written.
A command is forked from a process that has imported JAX, so that an input takes about a second. The table counts inputs
by kind and by what became of them; `--case=KIND/N` runs a single one, shows what it printed, and keeps its folder.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import inputs  # noqa: E402

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Outcome:
    """The outcome of an input: the exit code, the seconds, what was printed, and what is wrong with it, if anything."""

    name: str
    code: int | None
    seconds: float
    out: str
    err: str
    faults: tuple[str, ...]


def main() -> None:
    """Runs the inputs that the command line asks for; exits with 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="a command may take so long")
    parser.add_argument("--case", metavar="KIND/N", help="this one alone, shown and kept")
    parser.add_argument("--json", metavar="FILE", help="write all outcomes here")
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="fuzz"))
    os.environ.setdefault("MIXLM_CACHE", str(work / "cache"))
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.pop("XLA_FLAGS", None)  # one device
    base = trained(work)
    kinds = list(inputs.KINDS)
    names = [asked.case] if asked.case else [f"{kinds[n % len(kinds)]}/{n}" for n in range(asked.count)]
    preload()
    outcomes = run_all(names, asked, work, base)
    print("\n".join(table(outcomes)))
    if asked.json:
        records = [{**vars(each), "out": each.out[-2000:], "err": each.err[-2000:]} for each in outcomes]
        Path(asked.json).write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    failed = any(outcome.faults for outcome in outcomes)
    if not asked.case and not failed:
        shutil.rmtree(work)
    sys.exit(failed)


def show(outcome: Outcome, whole: bool) -> None:
    """Prints what failed, or all of it."""
    if outcome.faults or whole:
        print(f"{outcome.name}: {'; '.join(outcome.faults) or 'passed'} ({outcome.seconds:.1f} s)", flush=True)
        said = [line for line in outcome.err.splitlines() if line.strip()]
        print(
            "\n".join([outcome.out, outcome.err] if whole else [f"    {line[:300]}" for line in said[-3:]]), flush=True
        )


def trained(work: Path) -> Path:
    """A run of six steps with two checkpoints, on a small text, by the command itself."""
    inputs.write_prose(work / "text", files=12, seed=0)
    command = [sys.executable, "-m", "mixlm", *inputs.train_command(work / "text", work / "base")]
    done = subprocess.run(
        command, cwd=work, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"The run that the inputs are about failed: {done.stdout}{done.stderr}")
    return work / "base"


def preload() -> None:
    """Imports what the commands import, so that a fork begins with it; no device is touched yet."""
    for module in ("cli.main", "cli.train", "cli.evaluate", "cli.decode", "training.run", "evaluation.run"):
        importlib.import_module(f"mixlm.{module}")
    for module in ("decoding.run", "gin_config.build", "training.examples", "checkpoints.orbax_io"):
        importlib.import_module(f"mixlm.{module}")


def run_all(names: list[str], asked: argparse.Namespace, work: Path, base: Path) -> list[Outcome]:
    """Runs the inputs, some at a time; this process has one thread, so that a fork of it is whole."""
    waiting, running, outcomes = list(reversed(names)), [], []
    while waiting or running:
        while waiting and len(running) < asked.jobs:
            running.append(Running(waiting.pop(), asked, work, base))
        for each in list(running):
            if each.ended():
                running.remove(each)
                outcomes.append(each.outcome(keep=bool(asked.case)))
                show(outcomes[-1], whole=bool(asked.case))
        time.sleep(0.01)
    return outcomes


class Running:
    """An input whose command runs: its folder, what was in it before, and its process."""

    def __init__(self, name: str, asked: argparse.Namespace, work: Path, base: Path):
        self.name, self.limit, self.folder = name, asked.limit, work / name.replace("/", "-")
        self.folder.mkdir()
        make = inputs.KINDS[name.partition("/")[0]]
        self.case = make(random.Random(f"{asked.seed}/{name}"), self.folder, work / "text", base)
        self.before = kept(self.folder)
        self.begun, self.code, self.seconds = time.monotonic(), None, 0.0
        (self.folder / "stdin").write_bytes(self.case.stdin)
        self.child = os.fork()
        if self.child == 0:
            become(self.case, self.folder)

    def ended(self) -> bool:
        """True once the process has ended; one that takes too long is ended here, and has no exit code."""
        self.seconds = time.monotonic() - self.begun
        ended, status = os.waitpid(self.child, os.WNOHANG)
        if ended:
            self.code = os.waitstatus_to_exitcode(status)
        elif self.seconds > self.limit:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
        return bool(ended) or self.seconds > self.limit

    def outcome(self, keep: bool) -> Outcome:
        """Judges what became of it."""
        out, err = (
            (self.folder / part).read_text(encoding="utf-8", errors="backslashreplace") for part in ("stdout", "stderr")
        )
        faults = [*judged(self.case, self.code, out, err), *lost(self.case, self.before, self.folder, self.code)]
        if keep:
            print(f"{self.folder}: mixlm {' '.join(map(repr, self.case.arguments))}")
        elif not faults:
            shutil.rmtree(self.folder)
        return Outcome(self.name, self.code, self.seconds, out, err, tuple(faults))


def become(case: inputs.Case, folder: Path) -> None:
    """The forked process: it is the command, and never returns."""
    code = 70
    try:
        os.setsid()
        for name, mode, number in (("stdin", os.O_RDONLY, 0), ("stdout", _NEW, 1), ("stderr", _NEW, 2)):
            os.dup2(os.open(folder / name, mode, 0o600), number)
        os.chdir(folder)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115 (lives as the process)
            for number, mode, errors in ((0, "r", "strict"), (1, "w", "strict"), (2, "w", "backslashreplace"))
        )
        sys.argv = ["mixlm", *case.arguments]
        importlib.import_module("mixlm.cli.main").main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def judged(case: inputs.Case, code: int | None, out: str, err: str) -> list[str]:
    """The faults in how the command ended."""
    if code is None:
        return ["still running at the limit"]
    faults = []
    if "Traceback (most recent call last)" in out + err:
        faults.append("a traceback")
    if code not in (0, 2):
        faults.append(f"exit code {code}")
    sentences = [line for line in err.splitlines() if line.startswith("error:")]
    if len(sentences) != (code == 2):
        faults.append(f"{len(sentences)} sentences with exit code {code}")
    if case.verdict == "bad" and code == 0:
        faults.append("taken, and should be refused")
    if case.verdict == "good" and code == 2:
        faults.append(f"refused, and should be taken: {sentences}")
    return faults


def kept(folder: Path) -> dict[str, bytes]:
    """All regular files of the input, with their content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.is_symlink() and name not in ("stdout", "stderr", "stdin"):
            found[name] = path.read_bytes()
    return found


def lost(case: inputs.Case, before: dict[str, bytes], folder: Path, code: int | None) -> list[str]:
    """The faults in what is left: losses, and writes where nothing should be."""
    faults = []
    for name, content in before.items():
        path = folder / name
        if name.startswith("run/"):
            continue
        if not path.is_file() or path.read_bytes() != content:
            faults.append(f"{name} has changed")
    if case.run is None:
        return faults
    steps = (
        {int(each) for each in os.listdir(case.run / "checkpoints") if each.isdigit()}
        if (case.run / "checkpoints").is_dir()
        else set()
    )
    if case.whole_steps and not steps & case.whole_steps and not (code == 0 and steps):
        faults.append(f"no whole checkpoint of {sorted(case.whole_steps)} is left, only {sorted(steps)}")
    present = b"\n".join(path.read_bytes() for path in case.run.rglob("*metrics*") if path.is_file())
    missing = [line for line in case.lines if not _said(line, present)]
    if missing:
        faults.append(f"{len(missing)} lines of metrics.jsonl are lost, the first {missing[0][:60]!r}")
    return faults


def _said(line: bytes, present: bytes) -> bool:
    """True where a line of metrics is there, or was written again by a resume: then its step is."""
    step = re.match(rb'\{"step": (\d+)', line)
    return line in present or bool(step and re.search(rb'\{"step": ' + step[1] + rb"\b", present))


def table(outcomes: list[Outcome]) -> list[str]:
    """A row for each kind: inputs, taken, refused in a sentence, failed, and the longest time."""
    rows = [
        "| inputs | number | taken | refused in one sentence | failed | longest |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.name.partition("/")[0], []).append(outcome)
    for kind, each in [*groups.items(), ("all", outcomes)]:
        counts = Counter("failed" if one.faults else {0: "taken", 2: "refused"}[one.code or 0] for one in each)
        longest = max(one.seconds for one in each)
        rows.append(
            f"| {kind} | {len(each)} | {counts['taken']} | {counts['refused']} | {counts['failed']} | {longest:.0f} s |"
        )
    return rows


if __name__ == "__main__":
    main()
