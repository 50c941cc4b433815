"""BEST_METRIC, checked before a run begins: a figure that validation reports, at the step of a checkpoint."""

import math
from collections.abc import Sequence

from mixlm.errors import UserError, nearest
from mixlm.recipe import Recipe


def check_reported(metric: str, reported: Sequence[str]) -> None:
    """Raises UserError where `metric` is no figure that validation reports."""
    if metric not in reported:
        raise UserError(
            f"BEST_METRIC = {metric!r} is no figure of this run's validation, which reports "
            f"{', '.join(name for name in reported if _is_chosen(name, reported))}.{nearest(metric, reported)}"
        )


def _is_chosen(name: str, reported: Sequence[str]) -> bool:
    """True for a term, and for a figure of a task; the further figures of terms are many."""
    return "/" not in name or name.partition("/")[0] not in reported


def check_best(recipe: Recipe, metric: str, reported: Sequence[str]) -> None:
    """Raises UserError where `metric` is no figure that validation reports, or never one of a checkpoint."""
    check_reported(metric, reported)
    meet = math.lcm(recipe.checkpoint_period, recipe.eval_period)
    if meet > recipe.steps:
        raise UserError(
            f"No checkpoint before the last would be validated, so BEST_METRIC has none to choose from: "
            f"CHECKPOINT_PERIOD = {recipe.checkpoint_period} and EVAL_PERIOD = {recipe.eval_period} first meet at step "
            f"{meet} of {recipe.steps}."
        )
