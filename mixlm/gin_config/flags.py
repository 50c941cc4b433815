"""Command-line flags in the dialect of T5X (gin files, gin bindings), and the exit codes of a command."""

import argparse
import ast
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mixlm.checkpoints.orbax_io import silence_orbax
from mixlm.errors import MISTAKE, Stopped, UserError, nearest
from mixlm.paths import RunRef
from mixlm.perf.profiler import Profile

RECIPE_OPTIONS = ("--gin_file", "--gin_search_paths", "--text", "--print_config", "--explain")
_PROGRAMS_OPTION = "--run_generated_code"
_TRAIN_OPTIONS = ("--aot", "--profile", "--coordinator", "--processes", "--process")
# In the order of `mixlm decode --help`.
DECODE_OPTIONS = (
    "--prompt", "--prompt_file", "--how", "--max_tokens", "--seed", "--show_steps", "--temperature", "--top_k",
    "--top_p", "--beams", "--length_penalty", "--prefix", "--no-prefix", "--steps", "--samples", "--order",
    "--block_length",
)  # fmt: skip


@dataclass(frozen=True)
class Flags:
    """A parsed command line; `bindings` has one line of gin text, `NAME = value`, for each `--gin.NAME=value`.

    `text` is the path of `--text`, `values` are (NAME, value) pairs from Python.
    """

    gin_files: tuple[str, ...] = ()
    search_paths: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    text: str | None = None
    values: tuple[tuple[str, Any], ...] = ()
    print_config: bool = False
    explain: bool = False
    aot: str | None = None
    profile: Profile | None = None
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    run_generated_code: bool = False


def parse_flags(argv: Sequence[str], description: str, several: bool = False, programs: bool = False) -> Flags:
    """Reads the arguments after the program's name; raises UserError for one that is unknown or lacks its value.

    `several` adds the flags of training: multi-process runs, profiling and ahead-of-time compilation. `programs` adds
    the one that permits to run what a network has written.
    """
    bindings, others = _split_bindings(argv)
    parser = argparse.ArgumentParser(
        description=description,
        epilog="--gin.NAME=value sets a macro (--gin.TRAIN_STEPS=300) or a parameter (--gin.SpacTor.lambda1=5).",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--gin_file", action="append", default=[], metavar="NAME", help="a gin file; later ones override earlier ones"
    )
    parser.add_argument(
        "--gin_search_paths", action="append", default=[], metavar="A,B", help="folders to look for gin files in"
    )
    parser.add_argument(
        "--text",
        metavar="PATH",
        help="your own text: a file, or a folder of .txt, .jsonl, .tfrecord or other files of one kind",
    )
    parser.add_argument("--print_config", action="store_true", help="print the configuration and stop")
    parser.add_argument("--explain", action="store_true", help="describe the run, with examples, and stop")
    parser.set_defaults(aot=None, profile=None, coordinator=None, processes=None, process=None)
    parser.set_defaults(run_generated_code=False)
    if programs:
        parser.add_argument(
            _PROGRAMS_OPTION,
            action="store_true",
            help="run the programs that the network writes, confined, for pass@k (see docs/evaluation.md)",
        )
    if several:
        parser.add_argument(
            "--aot",
            metavar="TOPOLOGY",
            help="compile for TPU slices without having any (v5e:4x4, 2xv5e:4x4), report memory and FLOPs, and stop",
        )
        parser.add_argument(
            "--profile", metavar="START:STOP", help="trace these steps into RUN/profile, for TensorBoard or Perfetto"
        )
        parser.add_argument(
            "--coordinator", metavar="HOST:PORT", help="address of process 0, for a run in several processes"
        )
        parser.add_argument("--processes", type=int, metavar="N", help="number of processes")
        parser.add_argument("--process", type=int, metavar="I", help="index of this process, from 0")
    try:
        known, unknown = parser.parse_known_args(others)
    except argparse.ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}.") from None
    if unknown:
        added = (*(_TRAIN_OPTIONS if several else ()), *((_PROGRAMS_OPTION,) if programs else ()))
        raise UserError(unknown_flag(unknown[0], (*RECIPE_OPTIONS, *added)))
    if known.explain and known.profile is not None:
        raise UserError("--explain takes no step that --profile could trace: give one of them.")
    return Flags(
        gin_files=tuple(known.gin_file),
        search_paths=tuple(path for paths in known.gin_search_paths for path in paths.split(",") if path),
        bindings=tuple(bindings),
        text=known.text,
        print_config=known.print_config,
        explain=known.explain,
        aot=known.aot,
        profile=None if known.profile is None else Profile.of(known.profile),
        coordinator=known.coordinator,
        processes=known.processes,
        process=known.process,
        run_generated_code=known.run_generated_code,
    )


def of_run(flags: Flags) -> Flags:
    """The flags with the config.gin of the run in MODEL_DIR as their gin file, where they name none."""
    given = [value for name, _, value in (line.partition(" = ") for line in flags.bindings) if name == "MODEL_DIR"]
    if flags.gin_files or not given:
        return flags
    config = RunRef.parse(str(ast.literal_eval(given[-1])), "MODEL_DIR").folder / "config.gin"
    return replace(flags, gin_files=(str(config.absolute()),)) if config.is_file() else flags


def run_or_explain_error(main: Callable[[], None]) -> None:
    """Calls `main`; a mistake becomes one line on stderr and exit code 2, a signal its line and 75."""
    silence_orbax()
    try:
        main()
    except UserError as error:
        print("error:", str(error).replace("\n", " "), file=sys.stderr)
        sys.exit(MISTAKE)
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr, flush=True)
        sys.stdout.flush()
        # Not sys.exit, which would wait for background compilations.
        os._exit(interrupt.code if isinstance(interrupt, Stopped) else 128 + signal.SIGINT)


def _split_bindings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates `--gin.NAME=value` and `--gin.NAME value` from the other arguments."""
    bindings, others = [], []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--gin."):
            others.append(argument)
            continue
        name, equals, value = argument.removeprefix("--gin.").partition("=")
        if not equals:
            value = next(arguments, "--")
            if value.startswith("--"):
                raise UserError(f"{argument} needs a value: write {argument}=VALUE.")
        if not name.strip():
            raise UserError(f"{argument!r} names nothing to set: write --gin.NAME=value.")
        bindings.append(f"{name.strip()} = {gin_value(value)}")
    return bindings, others


def gin_value(text: str) -> str:
    """Returns `text` where gin can read it as a value, else `text` quoted, so that a shell needs no nested quotes."""
    if text.startswith(tuple("@%([{'\"")):
        return text
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return repr(text)
    # gin reads what follows a # as a comment, and parses neither a unary plus nor a tuple without brackets.
    literal = isinstance(value, (bool, int, float, str, type(None))) and "#" not in text and "+" not in text[:1]
    return text.strip() if literal else repr(text)


def unknown_flag(argument: str, known: Sequence[str]) -> str:
    """The sentence for an argument that a command with the flags `known` does not take."""
    name = argument.partition("=")[0]
    if not name.startswith("-"):
        return f"The argument {argument!r} stands alone: gin files are named with --gin_file=NAME."
    if name == "--":
        return "The argument '--' has no meaning here: leave it out."
    for command, options in (("train", _TRAIN_OPTIONS), ("decode", DECODE_OPTIONS)):
        if name in options and name not in known:
            return f"{name} is a flag of `mixlm {command}` alone."
    if name in known:
        return f"{name} is given twice, or after '--': give it once, before any '--'."
    knob = name.lstrip("-")
    if knob.isupper():
        return f"There is no flag {name!r}. Did you mean '--gin.{knob}'?"
    return f"There is no flag {name!r}.{nearest(name, (*known, '--help'))}"
