"""Trains a study, cell by cell: mixlm sweep --gin_file=studies/NAME.gin, or any recipe with --sweep.MACRO=A,B,C.

Cells are runs in runs/studies/NAME; the same command goes on where it was stopped. cells.csv is their table.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from mixlm.errors import UserError
from mixlm.gin_config.flags import RECIPE_OPTIONS, Flags, parse_flags, unknown_flag

OPTIONS = ("--seeds", "--status", "--retry", "--collect")
_EPILOG = """
The recipe's flags are those of `mixlm train`: --gin_file=NAME and --gin.NAME=value, --text=PATH,
--gin_search_paths=A,B; --print_config prints the configuration and stops.
--gin.STUDY_FOLDER=FOLDER gives the study another folder, --gin.SMALL=True reduces it as its file says.
"""


def main() -> None:
    """Reads the study from the command line, and trains its cells or shows where they stand."""
    given, axes, flags = parse(sys.argv[1:])
    from mixlm.sweeps.sweep import Texts, read_sweep

    say = partial(print, flush=True)
    sweep = read_sweep(flags, {name: Texts(values) for name, values in axes.items()}, given.seeds)
    if flags.print_config:
        print(sweep.variants.text, end="")
        return
    from mixlm.perf.malloc import keep_freed
    from mixlm.sweeps.collect import collect
    from mixlm.sweeps.run import run_cells
    from mixlm.sweeps.status import status_lines

    if not given.status and not given.collect:
        keep_freed()
        run_cells(sweep, say, given.retry)
    for line in status_lines(sweep.folder):
        say(line)
    if not given.status:
        collect(sweep.folder)
        say(f"In {sweep.folder.table}: a row for each cell and validated step.")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, list[str]], Flags]:
    """Returns (the flags of a sweep, the texts of the values of each axis, the flags of the recipe)."""
    axes, rest = _axes(argv)
    parser = _parser()
    try:
        given, others = parser.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}.") from None
    for argument in others:
        # As in `mixlm decode`: what only another command knows is said by name.
        name = argument.partition("=")[0]
        if name.startswith("--") and not name.startswith("--gin.") and name not in RECIPE_OPTIONS:
            raise UserError(unknown_flag(argument, (*OPTIONS, *RECIPE_OPTIONS)))
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
    add("--status", action="store_true", help="show what is done, running, failed and missing, and stop")
    add("--collect", action="store_true", help="write cells.csv from the runs as they are, and stop")
    add("--retry", action="store_true", help="run cells again that failed")
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
