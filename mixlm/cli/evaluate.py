"""Scores a trained run in every mode of its network, or a supervised one by its tasks' metrics: mixlm evaluate
--gin.MODEL_DIR=RUN, with the gin files of the run (default: its own config.gin).

--gin.MINIMAL_PAIRS=FOLDER adds minimal pairs, and --gin.EXACT_MATCH='@exact_match.ExactMatch()' decodes the pairs of a
supervised run, instead. gin/evaluate.gin lists what else can be set. --scores=FILE.jsonl (or .parquet) writes the score
of every sentence in every mode, and with --token_scores that of each of its tokens. Where a mode masks one token at a
time, 16 of each piece of the text are drawn (--gin.SCORED_POSITIONS); --all scores every one, as --scores does.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mixlm.errors import UserError
from mixlm.gin_config.flags import Flags, of_run, parse_flags
from mixlm.paths import local

if TYPE_CHECKING:
    from mixlm.recipe import Recipe

SCORES, TOKENS, ALL, POSITIONS = "--scores", "--token_scores", "--all", "--gin.SCORED_POSITIONS"


def main() -> None:
    """Builds the recipe and what to score from the command line, and scores, explains or prints it."""
    scores, tokens, others = item_flags(sys.argv[1:])
    whole = ALL in others
    flags = of_run(parse_flags(every_position(others, scores is not None), __doc__, programs=True))
    from mixlm.evaluation.item_scores import check_file, items, write_items
    from mixlm.evaluation.report import explanation, report, summary
    from mixlm.evaluation.run import Scoring, prepare, score, write
    from mixlm.gin_config.build import config_text, configured_all
    from mixlm.recipe import Recipe

    files = ("evaluate.gin",)
    if flags.print_config:
        print(config_text(flags, Recipe, (Scoring,), files), end="")
        return
    if scores is not None:
        check_file(scores)
    recipe, scoring = configured_all(flags, (Recipe, Scoring), files)
    from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
    from mixlm.perf.malloc import keep_freed

    keep_freed()
    say = partial(print, flush=True)
    if scores is not None and (scoring.exact_match is not None or recipe.dataset.pairs is not None):
        raise UserError(f"{SCORES} is for runs on text: what a supervised run says of each pair is kept as JSON lines.")
    if whole and (scoring.exact_match is not None or recipe.dataset.pairs is not None):
        raise UserError(
            f"{ALL} is for runs on text: of a supervised run all pairs are judged unless TASK_EXAMPLES says."
        )
    if scoring.exact_match is not None:
        for line in scoring.exact_match.report(scoring.exact_match(recipe, say)):
            say(line)
        return
    if recipe.dataset.pairs is not None:
        judge(recipe, scoring.task_examples, flags, say)
        return
    with kept_in(recipe.dataset.cache / EXECUTABLES):
        prepared = prepare(recipe, scoring, say)
        if scores is not None and tokens:
            check_file(scores, {**prepared.modes, **prepared.pair_modes})
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
        if scores is not None:
            say(write_items(scores, list(items(prepared, tokens))))


def item_flags(argv: Sequence[str]) -> tuple[Path | None, bool, list[str]]:
    """Returns (the file of --scores, whether tokens are scored too, the other arguments)."""
    scores, tokens, others = None, False, []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == SCORES:
            scores = local(value if equals else next(arguments, ""), SCORES)
        elif argument == TOKENS:
            tokens = True
        else:
            others.append(argument)
    if tokens and scores is None:
        raise UserError(f"{TOKENS} goes into the file of {SCORES}: give {SCORES}=FILE.jsonl as well.")
    return scores, tokens, others


def every_position(argv: Sequence[str], scores: bool) -> list[str]:
    """The arguments with --all, which --scores implies, as the macro's value; UserError where they say another."""
    if ALL not in argv and not scores:
        return list(argv)
    flag = ALL if ALL in argv else SCORES
    if any(argument.partition("=")[0] == POSITIONS for argument in argv):
        raise UserError(f"{flag} scores every position of the text: leave out {POSITIONS}.")
    return [*(argument for argument in argv if argument != ALL), f"{POSITIONS}=None"]


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
