"""Trains a study, cell by cell: mixlm sweep --gin_file=studies/NAME.gin, or any recipe with --sweep.MACRO=A,B,C.

Cells are runs in runs/studies/NAME; the same command goes on where it was stopped. cells.csv is their table.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mixlm.cli.arguments import beside_recipe
from mixlm.errors import UserError
from mixlm.gin_config.flags import Flags, parse_flags

if TYPE_CHECKING:
    from mixlm.sweeps.sweep import Sweep

_EPILOG = """
The recipe's flags are those of `mixlm train`: --gin_file=NAME and --gin.NAME=value, --text=PATH,
--gin_search_paths=A,B; --print_config prints the configuration and stops.
--gin.STUDY_FOLDER=FOLDER gives the study another folder, --gin.SMALL=True reduces it as its file says.
"""


def main() -> None:
    """Reads the study from the command line, and trains its cells or shows where they stand."""
    argv = sys.argv[1:]
    given, axes, flags = parse(argv)
    if given.share is not None:
        from mixlm.sweeps.jobs import take_share

        take_share(given.share)
    from mixlm.sweeps.sweep import Texts, read_sweep

    say = partial(print, flush=True)
    sweep = read_sweep(flags, {name: Texts(values) for name, values in axes.items()}, given.seeds)
    if flags.print_config:
        print(sweep.variants.text, end="")
    elif given.dry_run:
        from mixlm.sweeps.plan import plan_lines, planned

        for line in plan_lines(planned(sweep, partial(print, file=sys.stderr)), str(sweep.folder)):
            say(line)
    elif given.print_commands:
        from mixlm.sweeps.commands import command_lines

        sweep.check()
        for line in command_lines(sweep, argv):
            say(line)
    elif given.slurm is not None:
        from mixlm.sweeps.slurm import Resources, submit

        minutes, partition, parallel = given.slurm_time, given.slurm_partition, given.slurm_parallel
        resources = Resources(partition, minutes, parallel, given.slurm_cpus, given.slurm_gpus)
        submit(sweep, argv, given.slurm, resources, say)
    else:
        _train(sweep, given, argv, say)


def _train(sweep: "Sweep", given: argparse.Namespace, argv: Sequence[str], say: Callable[[str], Any]) -> None:
    """Trains what is asked for, shows the table and writes it; a cell that failed is the exit code's reason."""
    from mixlm.perf.malloc import keep_freed
    from mixlm.sweeps.collect import collect
    from mixlm.sweeps.jobs import run_jobs
    from mixlm.sweeps.run import run_cells
    from mixlm.sweeps.status import failures, status_lines

    cells = None if given.cell is None else [sweep.cell(given.cell)]
    if given.jobs > 1 and not (given.status or given.collect):
        run_jobs(sweep, argv, given.jobs, say)
    elif not (given.status or given.collect):
        keep_freed()
        run_cells(sweep, say, given.retry, cells, given.together)
    if given.share is not None:
        return  # The process that started this one shows the table.
    if cells is None:
        for line in status_lines(sweep.folder):
            say(line)
    if given.status:
        return
    if cells is None:
        collect(sweep.folder)
        say(f"In {sweep.folder.table}: a row for each cell and validated step.")
    if failed := failures(sweep.folder, [cell.name for cell in cells or sweep.cells]):
        raise UserError(f"{failed}; --retry runs what failed again.")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, list[str]], Flags]:
    """Returns (the flags of a sweep, the texts of the values of each axis, the flags of the recipe)."""
    axes, rest = _axes(argv)
    given, others = beside_recipe(_parser(), rest)
    for name in ("jobs", "together"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} is a number of {'processes' if name == 'jobs' else 'cells'}, at least 1.")
    places = [name for name in ("dry_run", "print_commands", "status", "collect") if getattr(given, name)]
    places += ["slurm"] if given.slurm is not None else []
    places += [name for name in ("jobs",) if given.jobs > 1]
    if len(places) > 1:
        raise UserError(f"--{places[0]} and --{places[1]} are two ways to go on: give one of them.")
    return given, axes, parse_flags(others, __doc__ or "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EPILOG,
        allow_abbrev=False,
        exit_on_error=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--seeds", type=_seeds, metavar="N", help="so many seeds from 0 on, or a list such as 3,5; default: the study's"
    )
    add(
        "--dry_run", action="store_true", help="list cells with parameters, tokens, FLOPs and a measured time, and stop"
    )
    add("--status", action="store_true", help="show what is done, running, failed and missing, and stop")
    add("--collect", action="store_true", help="write cells.csv from the runs as they are, and stop")
    add("--retry", action="store_true", help="run cells again that failed")
    add("--cell", metavar="NAME", help="train this cell alone, by its name or its number from 0")
    where = parser.add_argument_group("where cells run; default: one after another in this process")
    where.add_argument("--together", type=int, default=1, metavar="K", help="so many cells in one program")
    where.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="so many processes, with a share of the machine"
    )
    where.add_argument("--print_commands", action="store_true", help="print a command for each cell, and stop")
    where.add_argument(
        "--slurm",
        nargs="?",
        const="slurm",
        choices=("slurm", "local", "debug"),
        help="submit an array through submitit",
    )
    where.add_argument("--slurm_partition", metavar="NAME")
    where.add_argument("--slurm_time", type=int, default=60, metavar="MINUTES", help="of each cell; default: 60")
    where.add_argument("--slurm_parallel", type=int, metavar="N", help="cells that run at once; default: all")
    where.add_argument("--slurm_cpus", type=int, metavar="N", help="of each cell")
    where.add_argument("--slurm_gpus", type=int, metavar="N", help="of each cell")
    where.add_argument("--share", help=argparse.SUPPRESS)
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0 or ("," not in text and numbers[0] < 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seeds, and no list of them")
    return numbers if "," in text else tuple(range(numbers[0]))


def _axes(argv: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Separates `--sweep.MACRO=A,B` from the other arguments."""
    axes: dict[str, list[str]] = {}
    others = []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--sweep."):
            others.append(argument)
            continue
        name, equals, text = argument.removeprefix("--sweep.").partition("=")
        text = text if equals else next(arguments, "")
        values = split_values(text)
        if not name or not values or text.startswith("--"):
            raise UserError(f"{argument} needs values: write --sweep.MACRO=A,B,C.")
        if name in axes:
            raise UserError(f"--sweep.{name} is given twice: give all of its values at once.")
        axes[name] = values
    return axes, others


def split_values(text: str) -> list[str]:
    """The parts between commas that stand outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and not depth:
            parts.append("")
            continue
        parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
