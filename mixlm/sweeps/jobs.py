"""Several processes on this machine, each with its share of the cores or GPUs; claims keep their cells apart."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mixlm.errors import Stopped, UserError
from mixlm.sweeps.commands import process_command, was_stopped
from mixlm.sweeps.start import check_start
from mixlm.sweeps.states import DONE, FAILED, MISSING, state_in
from mixlm.sweeps.sweep import Sweep
from mixlm.training.signals import Signals

PAUSE = 0.2  # Ours: seconds between looks at the processes.
MEMORY_SHARE = 0.9  # Ours: of a GPU that several processes share; XLA takes three quarters for one alone.


def run_jobs(sweep: Sweep, argv: Sequence[str], jobs: int, say: Callable[[str], Any] = print) -> None:
    """Trains the missing cells in `jobs` processes; the cell of a process that is killed is marked as failed.

    Raises UserError for a mistake in any cell, before a process is started, and where cells are left since a process
    failed; Stopped for a signal, which the processes get as well, so that each saves its cell, and where cells are left
    since a process alone got one.
    """
    check_start(sweep, sweep.check(), sweep.cells)
    sweep.folder.write(sweep.content)
    signals = Signals()
    signals.outcome = lambda: f"what was trained is in {sweep.folder}"
    running: dict[int, subprocess.Popen[bytes]] = {}
    stopped = False
    with signals.handled():
        try:
            for index in range(jobs):
                running[index] = _start(argv, index, jobs)
            while running:
                time.sleep(PAUSE)
                for index, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[index]
                    if was_stopped(process.returncode):
                        stopped = True
                    elif process.returncode < 0 and _mark_killed(sweep, process, say):
                        running[index] = _start(argv, index, jobs)
        finally:
            for process in running.values():
                process.send_signal(signal.SIGTERM)
            for process in running.values():
                process.wait()
    left = [cell.name for cell in sweep.cells if state_in(sweep.folder, cell.name) == MISSING]
    if left and stopped:
        raise Stopped("A signal to one of the processes", signals.outcome())
    if left:
        raise UserError(f"{len(left)} of {len(sweep.cells)} cells are not done, the first {left[0]}: a process failed.")


def _start(argv: Sequence[str], index: int, jobs: int) -> subprocess.Popen[bytes]:
    # In a group of its own: Ctrl-C goes to all of a terminal's group, and a second signal ends a process at once.
    return subprocess.Popen(process_command(argv, f"--share={index}/{jobs}"), process_group=0)


def _mark_killed(sweep: Sweep, process: subprocess.Popen[bytes], say: Callable[[str], Any]) -> bool:
    """Marks the cell that a killed process was at; False where that is not known, as before its first cell."""
    name = signal.Signals(-process.returncode).name
    for cell in sweep.cells:
        held = sweep.folder.record(cell.name)
        if held.get("process") == process.pid and state_in(sweep.folder, cell.name) not in (DONE, FAILED):
            sentence = f"Its process was killed ({name}); --retry goes on from its newest checkpoint."
            sweep.folder.note(cell.name, error=sentence)
            say(f"{cell.name}  failed: {sentence}")
            return True
    say(f"A process ended by {name} before its first cell.")
    return False


def take_share(text: str) -> None:
    """Takes share INDEX/COUNT of this machine's cores or GPUs for this process; called before JAX looks for devices."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise UserError(
            f"--share={text} is INDEX/COUNT, such as 0/2; `mixlm sweep --jobs=N` gives it to its processes."
        )
    index, jobs = int(found[1]), int(found[2])
    gpus = visible_gpus()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(shared_out(gpus, index, jobs))
        if jobs > len(gpus):
            share = MEMORY_SHARE / -(-jobs // len(gpus))
            os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{share:.3f}")
        return
    # XLA makes as many threads as a process may use cores.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, shared_out(cores, index, jobs))


def shared_out(things: Sequence[Any], index: int, jobs: int) -> list[Any]:
    """The things of one job: equal shares, none twice; where there are fewer than jobs, each job has one of them."""
    if jobs >= len(things):
        return [things[index % len(things)]]
    return list(things[index * len(things) // jobs : (index + 1) * len(things) // jobs])


def visible_gpus() -> list[str]:
    """NVIDIA's GPUs that this process may use, by their numbers."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [part.strip() for part in given.split(",") if part.strip()]
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    names = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return sorted((name[1] for name in names if name), key=int)
