"""Trains a recipe with T5X's own trainer: python launch/t5x_steps.py --gin_file=NAME.gin --gin.TRAIN_STEPS=10.

T5X is on GitHub alone; its Adafactor trains, at the recipe's learning rate, and nothing is saved.
"""

import sys
from functools import partial

from mixlm.gin_config.flags import parse_flags


def main() -> None:
    """Builds the recipe from the command line, and prints the loss of every step."""
    flags = parse_flags(sys.argv[1:], __doc__)
    from mixlm.gin_config.build import config_text, configured
    from mixlm.recipe import Recipe

    if flags.print_config:
        print(config_text(flags, Recipe), end="")
        return
    recipe, say = configured(flags, Recipe), partial(print, flush=True)
    if flags.explain:
        from mixlm.training.run import explain

        say(str(explain(recipe, say)))
        return
    from mixlm.interop.t5x.trainer import train

    train(recipe, say)
