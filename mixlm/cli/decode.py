"""Continues prompts with a trained run: mixlm decode --gin_file=NAME.gin --gin.MODEL_DIR=RUN --prompt=TEXT.

Prompts come from --prompt (as often as you like), from --prompt_file, or else from standard input, one a line.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mixlm import files
from mixlm.cli.arguments import beside_recipe
from mixlm.errors import UserError, nearest
from mixlm.gin_config.flags import Flags, parse_flags
from mixlm.paths import local

_GENERAL = ("prompt", "prompt_file", "how", "max_tokens", "seed", "show_steps")
_RECIPE_HELP = """
The recipe's flags are those of `mixlm train`: --gin_file=NAME and --gin.NAME=value as the run was trained with,
--text=PATH, --gin_search_paths=A,B; --print_config prints the configuration and stops, --explain describes the run
and stops.
A flag that the decoding strategy does not read is an error.
"""


def main() -> None:
    """Builds the recipe and the decoder from the command line, and continues the prompts."""
    given, flags = parse(sys.argv[1:])
    from mixlm.gin_config.build import config_text, configured
    from mixlm.recipe import Recipe

    if flags.print_config:
        print(config_text(flags, Recipe), end="")
        return
    settings = {name: getattr(given, name) for name in vars(given) if name not in _GENERAL}
    texts = prompts(given)
    recipe = configured(flags, Recipe)
    from mixlm.decoding.run import decode, load, prepare
    from mixlm.perf.compilation_cache import EXECUTABLES, kept_in

    say, note = partial(print, flush=True), partial(print, file=sys.stderr, flush=True)
    with kept_in(recipe.dataset.cache / EXECUTABLES):
        request = prepare(recipe, texts, given.how, given.max_tokens, given.seed, given.show_steps, settings, note)
        for line in request.notes():
            note(line)
        if flags.explain:
            many = "1 prompt" if len(texts) == 1 else f"{len(texts)} prompts"
            say(f"{recipe.folder} would continue {many} by {request.settings}, at most {request.length} tokens.")
            return
        step, params = load(request)
        say(f"{recipe.folder}, step {step}: {request.settings}")
        for continuation in decode(request, params):
            say("")
            say(str(continuation))


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Flags]:
    """Returns (the flags of decoding, of which those of a strategy only if given; the flags of the recipe)."""
    given, others = beside_recipe(_parser(), argv)
    return given, parse_flags(others, __doc__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_RECIPE_HELP,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--prompt", action="append", default=[], metavar="TEXT", help="a text to continue")
    add("--prompt_file", default=None, metavar="FILE", help="a file with one prompt a line")
    add(
        "--how",
        default=None,
        metavar="WAY",
        help="autoregressive, unrolled (AR2Diff), masked (diffusion) or spans; default: what the last stage trains",
    )
    add("--max_tokens", type=int, default=None, metavar="N", help="new tokens at most; default: 64, spans as trained")
    add("--seed", type=int, default=0, metavar="N", help="of the noise; default: 0")
    add("--show_steps", action="store_true", default=False, help="print how a diffusion text forms")
    drawn = parser.add_argument_group("how tokens are drawn")
    drawn.add_argument("--temperature", type=float, metavar="X", help="0 takes the likeliest; default: 0, unrolled 0.2")
    drawn.add_argument("--top_k", type=int, metavar="N", help="only the N likeliest tokens; default: 0, all")
    drawn.add_argument("--top_p", type=float, metavar="X", help="only the likeliest that hold X; default: 1, all")
    way = parser.add_argument_group("autoregressive and spans")
    way.add_argument("--beams", type=int, metavar="N", help="beam search over N texts; default: 1, none")
    way.add_argument(
        "--length_penalty", type=float, metavar="X", help="scores are log p / ((5 + tokens) / 6)^X; default: 0.6"
    )
    way.add_argument(
        "--prefix",
        action=argparse.BooleanOptionalAction,
        help="autoregressive: the prompt is read in both directions; default: as in training",
    )
    way = parser.add_argument_group("unrolled and masked")
    way.add_argument("--steps", type=int, metavar="N", help="default: 10, masked 32 or one a token")
    way.add_argument("--samples", type=int, metavar="N", help="unrolled: the best of N; default: 8")
    way.add_argument("--order", metavar="ORDER", help="masked: confidence or ancestral; default: confidence")
    way.add_argument("--block_length", type=int, metavar="N", help="masked: block by block; default: one block")
    return parser


def prompts(given: argparse.Namespace) -> list[str]:
    """Returns the prompts of the flags, or else of standard input; raises UserError for none, or one without text."""
    found = [(f"--prompt number {index + 1}", text) for index, text in enumerate(given.prompt)]
    if given.prompt_file is not None:
        found += _lines(given.prompt_file, _of_file(local(given.prompt_file, "--prompt_file")))
    if not given.prompt and given.prompt_file is None:
        found = _lines("standard input", _of_stdin())
    if not found:
        raise UserError("There is no prompt: give --prompt=TEXT, --prompt_file=FILE, or lines on standard input.")
    for place, text in found:
        files.check_text(text, f"The prompt in {place}")
        if not text.strip():
            raise UserError(f"The prompt in {place} is empty.")
    return [text for _, text in found]


def _lines(place: str, text: str) -> list[tuple[str, str]]:
    return [(f"line {index + 1} of {place}", line) for index, line in enumerate(files.split_lines(text))]


def _of_file(path: Path) -> str:
    if not os.path.lexists(path):
        siblings = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"There is no prompt file {str(path)!r}.{nearest(str(path), siblings)}")
    return files.read_text(path)


def _of_stdin() -> str:
    """The text of standard input, "" for a terminal or where it is closed; it may be a pipe, but has a bound."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    content = files.read_some(sys.stdin.buffer, files.MAX_JSON_BYTES + 1)
    if len(content) > files.MAX_JSON_BYTES:
        raise UserError(f"Standard input has more than {files.MAX_JSON_BYTES:,} bytes of prompts; give fewer.")
    return files.decode(content, "Standard input")
