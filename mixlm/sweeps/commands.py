"""Cells as commands: one line each, for any scheduler, and what a process of this machine or an array task runs."""

import shlex
import sys
from collections.abc import Sequence

from mixlm.errors import UNFINISHED
from mixlm.sweeps.states import DONE, state_in
from mixlm.sweeps.sweep import Sweep
from mixlm.training.signals import SIGNALS, WARNINGS

# Flags that say where cells are run, which a command of one cell leaves out.
PLACES = ("--jobs", "--print_commands", "--dry_run", "--slurm", "--slurm_partition", "--slurm_time", "--slurm_parallel",
          "--slurm_cpus", "--slurm_gpus", "--together")  # fmt: skip


def without_places(argv: Sequence[str]) -> list[str]:
    """A command line of `mixlm sweep` without the flags of PLACES and their values."""
    found, arguments = [], list(argv)
    while arguments:
        argument = arguments.pop(0)
        name, equals, _ = argument.partition("=")
        if name not in PLACES:
            found.append(argument)
        elif not equals and arguments and not arguments[0].startswith("--"):
            arguments.pop(0)
    return found


def command_lines(sweep: Sweep, argv: Sequence[str]) -> list[str]:
    """A line for each cell that is not done: `mixlm sweep ... --cell=NAME`, quoted for a shell."""
    base = ["mixlm", "sweep", *without_places(argv)]
    names = [cell.name for cell in sweep.cells if state_in(sweep.folder, cell.name) != DONE]
    return [shlex.join([*base, f"--cell={name}"]) for name in names]


def process_command(argv: Sequence[str], *flags: str) -> list[str]:
    """The same command as a process of this Python."""
    return [sys.executable, "-m", "mixlm", "sweep", *without_places(argv), *flags]


def was_stopped(code: int) -> bool:
    """True for the exit code of such a process that somebody asked to stop: its cell has not failed."""
    return code == UNFINISHED or -code in SIGNALS + WARNINGS
