"""Continues prompts with a trained run: mixlm decode --gin_file=NAME.gin --gin.MODEL_DIR=RUN --prompt=TEXT.

Prompts come from --prompt (as often as you like), from --prompt_file, or else from standard input, one a line.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mixlm.errors import UserError, nearest
from mixlm.gin_config.flags import Flags, parse_flags
from mixlm.paths import local

_RECIPE_FLAGS = ("gin_file", "gin_search_paths", "text", "print_config", "explain")
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
    parser = _parser()
    try:
        given, others = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}.") from None
    own = [option for action in parser._actions for option in action.option_strings]
    for argument in others:
        name = argument.partition("=")[0]
        if name.startswith("--") and not name.startswith("--gin.") and name.removeprefix("--") not in _RECIPE_FLAGS:
            raise UserError(f"There is no flag {name!r}.{nearest(name, [*own, *('--' + f for f in _RECIPE_FLAGS)])}")
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
    """Returns the prompts of the flags, or else of standard input; raises UserError for none or an empty one."""
    found = [(f"--prompt number {index + 1}", text) for index, text in enumerate(given.prompt)]
    if given.prompt_file is not None:
        found += _lines(given.prompt_file, _read(local(given.prompt_file, "--prompt_file")))
    if not given.prompt and given.prompt_file is None:
        text = "" if sys.stdin.isatty() else _decoded(sys.stdin.buffer.read(), "standard input")
        found = _lines("standard input", text)
    if not found:
        raise UserError("There is no prompt: give --prompt=TEXT, --prompt_file=FILE, or lines on standard input.")
    for place, text in found:
        if not text.strip():
            raise UserError(f"The prompt in {place} is empty.")
    return [text for _, text in found]


def _lines(place: str, text: str) -> list[tuple[str, str]]:
    return [(f"line {index + 1} of {place}", line) for index, line in enumerate(text.splitlines())]


def _read(path: Path) -> str:
    try:
        return _decoded(path.read_bytes(), str(path))
    except OSError as error:
        siblings = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path} cannot be read: {error.strerror}.{nearest(str(path), siblings)}") from None


def _decoded(content: bytes, place: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UserError(f"The prompts in {place} are not UTF-8 text.") from None
