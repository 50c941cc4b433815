"""Trains a recipe: mixlm train --gin_file=spactor.gin [--gin.NAME=value ...] [flags]."""

import sys
from functools import partial

from mixlm.errors import UserError
from mixlm.gin_config.flags import Flags, parse_flags


def main() -> None:
    """Builds the recipe from the command line, and trains, explains, compiles ahead or prints it."""
    flags = parse_flags(sys.argv[1:], __doc__, several=True, programs=True)
    from mixlm.gin_config.build import config_text, configured
    from mixlm.recipe import Recipe

    if flags.print_config:
        print(config_text(flags, Recipe), end="")
        return
    say = partial(print, flush=True)
    if flags.aot is not None:
        alone(flags)
        import jax

        # Ahead-of-time compilation needs no device: a local TPU stays free for others.
        jax.config.update("jax_platforms", "cpu")
        from mixlm.training.aot import compile_ahead

        compile_ahead(configured(flags, Recipe), flags.aot, say)
        return
    recipe = configured(flags, Recipe)
    from mixlm.evaluation.tasks.programs import permitted
    from mixlm.parallel.processes import is_main, join, process_spec
    from mixlm.perf.malloc import keep_freed
    from mixlm.training.run import explain, train

    keep_freed()
    spec = process_spec(flags.coordinator, flags.processes, flags.process)
    with permitted(flags.run_generated_code), join(spec):
        if flags.explain:
            explained = explain(recipe, say)
            if is_main():
                say(str(explained))
        else:
            train(recipe, say, flags.profile)


def alone(flags: Flags) -> None:
    """Raises UserError where --aot is given with a flag that it would ignore."""
    for name in ("explain", "profile", "coordinator", "processes", "process", "run_generated_code"):
        # --process=0 is given, too.
        if getattr(flags, name) is not None and getattr(flags, name) is not False:
            raise UserError(f"--aot compiles in this process alone and stops: leave --{name} out.")
