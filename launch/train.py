"""Trains a recipe: python launch/train.py --gin_file=spactor.gin [--gin.NAME=value ...]."""

import sys
from functools import partial

from flags import Flags, parse_flags, run_or_explain_error

from mixlm.errors import UserError


def main() -> None:
    """Builds the recipe from the command line, and trains, explains, compiles ahead or prints it."""
    flags = parse_flags(sys.argv[1:], __doc__, several=True)
    from configure import config_text, configured, operative_config

    from mixlm.recipe import Recipe

    if flags.print_config:
        print(config_text(flags, Recipe), end="")
        return
    say = partial(print, flush=True)
    if flags.aot is not None:
        alone(flags)
        import jax

        # A TPU that is here is not to be taken, and one that is not here not waited for.
        jax.config.update("jax_platforms", "cpu")
        from mixlm.aot import compile_ahead

        compile_ahead(configured(flags, Recipe), flags.aot, say)
        return
    recipe = configured(flags, Recipe)
    from mixlm.host_memory import keep_freed
    from mixlm.processes import joined, place
    from mixlm.train import explain, train

    keep_freed()
    with joined(place(flags.coordinator, flags.processes, flags.process)):
        if flags.explain:
            explain(recipe, say)
        else:
            train(recipe, operative_config(), say, flags.profile)


def alone(flags: Flags) -> None:
    """Raises UserError where --aot stands beside a flag that it would leave without effect."""
    for name in ("explain", "profile", "coordinator", "processes", "process"):
        # Process 0 is a process.
        if getattr(flags, name) is not None and getattr(flags, name) is not False:
            raise UserError(f"--aot compiles in this process alone and stops: leave --{name} out.")


if __name__ == "__main__":
    run_or_explain_error(main)
