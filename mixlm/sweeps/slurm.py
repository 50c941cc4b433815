"""A study as a SLURM array through submitit (extra `slurm`): a task for each cell that is not done."""

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mixlm.errors import Stopped, UserError
from mixlm.paths import make_within
from mixlm.sweeps.commands import process_command, was_stopped
from mixlm.sweeps.start import check_start
from mixlm.sweeps.states import DONE, state_in
from mixlm.sweeps.sweep import Sweep

CLUSTERS = ("slurm", "local", "debug")
LOGS = "slurm"


@dataclass(frozen=True)
class Resources:
    """The resources of each task of the array; `parallel` is how many of them run at once."""

    partition: str | None = None
    minutes: int = 60
    parallel: int | None = None
    cpus: int | None = None
    gpus: int | None = None

    def parameters(self) -> dict[str, Any]:
        """The names that submitit has for them."""
        found = {
            "timeout_min": self.minutes,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus,
            "slurm_partition": self.partition,
            "slurm_array_parallelism": self.parallel,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass
class CellTask:
    """The work of a task of the array: one cell, as a process of its own; raises where that failed or was stopped.

    SLURM signals the task alone, not what it has started, and submitit passes over SIGTERM: the task hands it on, once,
    as a second signal ends a process at once.
    """

    argv: tuple[str, ...]
    process: "subprocess.Popen[bytes] | None" = None
    asked: bool = False  # to stop

    def __call__(self, cell: str) -> None:
        command = process_command(self.argv, f"--cell={cell}")
        before = signal.signal(signal.SIGTERM, lambda *_: self.stop())
        try:
            self.process = subprocess.Popen(command)
            if self.asked:  # before there was a process
                self.process.terminate()
            code = self.process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
        if was_stopped(code):
            raise Stopped("A signal", f"what was trained of {cell} is saved")
        if code:
            raise subprocess.CalledProcessError(code, command)

    def stop(self) -> None:
        """Asks the process to save and to leave."""
        if self.process is not None and not self.asked:
            self.process.terminate()
        self.asked = True

    def checkpoint(self, cell: str) -> Any:
        """The same task once more, with the cell saved: submitit asks at a preemption and ahead of the time limit."""
        from submitit.helpers import DelayedSubmission

        self.stop()
        if self.process is not None:
            # The call above waits for the process as well: it is not reaped here.
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(CellTask(self.argv), cell)


def submit(
    sweep: Sweep, argv: Sequence[str], cluster: str, resources: Resources, say: Callable[[str], Any] = print
) -> list[Any]:
    """Submits the cells that are not done as one array; returns submitit's jobs.

    The logs of the tasks are in the study's `slurm/`. `cluster` is "slurm", or submitit's "local" and "debug". Raises
    UserError where submitit is not installed or there is no SLURM.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("--slurm needs submitit: pip install 'mixlm[slurm]'.") from None
    check_start(sweep, sweep.check(), sweep.cells)
    sweep.folder.write(sweep.content)
    names = [cell.name for cell in sweep.cells if state_in(sweep.folder, cell.name) != DONE]
    if not names:
        say(f"{sweep.folder}: all cells are done.")
        return []
    try:
        executor = submitit.AutoExecutor(folder=make_within(sweep.folder.path, LOGS), cluster=cluster)
    except RuntimeError as error:
        raise UserError(f"--slurm finds no SLURM here ({error}).") from None
    executor.update_parameters(name=f"mixlm-{sweep.study.name}", **resources.parameters())
    jobs = executor.map_array(CellTask(tuple(argv)), names)
    say(f"{len(jobs)} cells are submitted, from job {jobs[0].job_id} on; their logs are in {sweep.folder.path / LOGS}.")
    return list(jobs)
