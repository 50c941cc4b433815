"""Scores a trained run in every mode of its network, or a supervised one by its tasks' metrics: mixlm evaluate
--gin.MODEL_DIR=RUN, with the gin files of the run (default: its own config.gin).

--gin.MINIMAL_PAIRS=FOLDER adds minimal pairs, and --gin.EXACT_MATCH='@exact_match.ExactMatch()' decodes the pairs of a
supervised run, instead. gin/evaluate.gin lists what else can be set.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mixlm.gin_config.flags import Flags, of_run, parse_flags

if TYPE_CHECKING:
    from mixlm.recipe import Recipe


def main() -> None:
    """Builds the recipe and what to score from the command line, and scores, explains or prints it."""
    flags = of_run(parse_flags(sys.argv[1:], __doc__, programs=True))
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
    if recipe.dataset.pairs is not None:
        judge(recipe, scoring.task_examples, flags, say)
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


def judge(recipe: "Recipe", examples: int | None, flags: Flags, say: Callable[[str], None]) -> None:
    """Evaluates the tasks of a supervised run by their own metrics, or explains what would be."""
    from mixlm.evaluation.tasks.programs import permitted
    from mixlm.evaluation.tasks.run import evaluate, prepare, report, summary, write
    from mixlm.perf.compilation_cache import EXECUTABLES, kept_in

    with kept_in(recipe.dataset.cache / EXECUTABLES), permitted(flags.run_generated_code):
        prepared = prepare(recipe, examples, say)
        for line in summary(prepared):
            say(line)
        if flags.explain:
            return
        verdicts = evaluate(prepared)
        for line in report(verdicts):
            say(line)
        say(write(prepared, verdicts))
