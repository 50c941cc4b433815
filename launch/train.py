"""Trains a recipe: python launch/train.py --gin_file=spactor.gin [--gin.NAME=value ...]."""

import sys
from functools import partial

from flags import parse_flags, run_or_explain_error


def main() -> None:
    """Builds the recipe from the command line, and trains, explains or prints it."""
    flags = parse_flags(sys.argv[1:], __doc__, several=True)
    from configure import config_text, configured, operative_config

    from mixlm.recipe import Recipe

    if flags.print_config:
        print(config_text(flags, Recipe), end="")
        return
    recipe = configured(flags, Recipe)
    from mixlm.processes import joined, place
    from mixlm.train import explain, train

    say = partial(print, flush=True)
    with joined(place(flags.coordinator, flags.processes, flags.process)):
        if flags.explain:
            explain(recipe, say)
        else:
            train(recipe, operative_config(), say, flags.profile)


if __name__ == "__main__":
    run_or_explain_error(main)
