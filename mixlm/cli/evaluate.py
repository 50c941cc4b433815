"""Scores a trained run in every mode of its network: mixlm evaluate --gin_file=NAME.gin --gin.MODEL_DIR=RUN.

--gin.MINIMAL_PAIRS=FOLDER adds minimal pairs, and --gin.EXACT_MATCH='@exact_match.ExactMatch()' decodes the pairs of a
recipe whose rows are pairs, instead. gin/evaluate.gin lists what else can be set.
"""

import sys
from functools import partial

from mixlm.gin_config.flags import parse_flags


def main() -> None:
    """Builds the recipe and what to score from the command line, and scores, explains or prints it."""
    flags = parse_flags(sys.argv[1:], __doc__)
    from mixlm.evaluation.run import Scoring, explanation, prepare, report, score, summary, write
    from mixlm.gin_config.build import config_text, configured_all
    from mixlm.recipe import Recipe

    files = ("evaluate.gin",)
    if flags.print_config:
        print(config_text(flags, Recipe, (Scoring,), files), end="")
        return
    recipe, scoring = configured_all(flags, (Recipe, Scoring), files)
    from mixlm.perf.compilation_cache import EXECUTABLES, kept_in

    say = partial(print, flush=True)
    if scoring.exact_match is not None:
        for line in scoring.exact_match.report(scoring.exact_match(recipe, say)):
            say(line)
        return
    with kept_in(recipe.dataset.cache / EXECUTABLES):
        prepared = prepare(recipe, scoring, say)
        if flags.explain:
            for line in explanation(prepared):
                say(line)
            return
        for line in summary(prepared):
            say(line)
        figures, accuracies = score(prepared)
        for line in report(prepared, figures, accuracies):
            say(line)
        say(write(prepared, figures, accuracies))
