"""Command lines: parsers whose mistakes are one sentence, alone and beside the flags of a recipe."""

import argparse
from collections.abc import Sequence

from mixlm.errors import UserError
from mixlm.gin_config.flags import RECIPE_OPTIONS, unknown_flag


def command_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints `description` as it stands, and abbreviates no flag."""
    return argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,
        exit_on_error=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str], only: str) -> argparse.Namespace:
    """The arguments, flags before, between or after the others.

    Raises UserError for a value that a flag cannot have, for an unknown flag, with the nearest, and for an argument too
    many, after `only`, which says what the command is of.
    """
    try:
        given, others = parser.parse_known_intermixed_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}.") from None
    for each in others:
        if each.startswith("-"):
            raise UserError(unknown_flag(each, _flags_of(parser)))
        raise UserError(f"{only}: leave {each!r} out.")
    return given


def beside_recipe(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """(the arguments of the command, the rest, which are those of the recipe); UserError as `parsed` raises it."""
    try:
        given, others = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}.") from None
    for each in others:
        name = each.partition("=")[0]
        if name.startswith("--") and not name.startswith("--gin.") and name not in RECIPE_OPTIONS:
            raise UserError(unknown_flag(each, (*_flags_of(parser), *RECIPE_OPTIONS)))
    return given, others


def _flags_of(parser: argparse.ArgumentParser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
