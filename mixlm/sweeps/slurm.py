"""A study as a SLURM array through submitit (extra `slurm`): a task for each cell that is not done."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mixlm.errors import UserError
from mixlm.paths import make_within
from mixlm.sweeps.commands import process_command
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


@dataclass(frozen=True)
class CellTask:
    """The work of a task of the array: one cell, as a process of its own; its exit code is not 0 where that failed."""

    argv: tuple[str, ...]

    def __call__(self, cell: str) -> None:
        subprocess.run(process_command(self.argv, f"--cell={cell}"), check=True)


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
    sweep.check()
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
