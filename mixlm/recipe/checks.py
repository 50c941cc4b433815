"""Checks of a recipe's own values: their kinds, numbers, length and stages."""

from typing import TYPE_CHECKING

import flax.linen as nn

from mixlm.data.dataset import Dataset
from mixlm.data.mixture import Mixture
from mixlm.errors import UserError, check_kind, nearest
from mixlm.losses.token_losses import TokenLoss
from mixlm.network import Initializable
from mixlm.objectives.base import Objective, TokenObjective
from mixlm.objectives.curriculum import Blocks, Curriculum
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.reports.best import HIGHEST, LOWEST
from mixlm.tokens import TokenIds
from mixlm.values import check_positive

if TYPE_CHECKING:
    from mixlm.recipe import Recipe


def check_kinds(recipe: "Recipe") -> None:
    """Raises UserError for a value of another kind: gin's are checked as they are read, Python's are not."""
    if not recipe.name.strip():
        raise UserError("RECIPE is empty, and a run's folder is named by it: give the recipe a name.")
    for name, kind in (("optimizer", Optimizer), ("tokens", TokenIds), ("partitioning", Partitioning)):
        check_kind(f"Recipe.{name}", getattr(recipe, name), kind)
    if not isinstance(recipe.curriculum, Blocks):
        check_kind("Recipe.curriculum", recipe.curriculum, Curriculum)
    if not isinstance(recipe.dataset, Mixture):
        check_kind("Recipe.dataset", recipe.dataset, Dataset)
    for name, module in recipe.networks.items():
        check_kind(f"Recipe.networks[{name!r}]", module, nn.Module)
        check_kind(f"Recipe.networks[{name!r}]", module, Initializable)
    for objective in recipe.declared:
        check_kind("A stage's objective", objective, Objective)
        if isinstance(objective, TokenObjective):
            check_kind(f"The loss of {objective.name!r}", objective.loss, TokenLoss)


def check_numbers(recipe: "Recipe") -> None:
    """Raises UserError for a number out of bounds, and for settings that contradict each other."""
    for name in ("batch_size", "microbatches", "log_period", "eval_period", "eval_batches"):
        check_positive(name, getattr(recipe, name))
    for name in ("checkpoint_period", "keep", "keep_best"):
        check_positive(name, getattr(recipe, name))
    for name, length in recipe.lengths.items():
        check_positive(f"TASK_FEATURE_LENGTHS[{name!r}]", length)
    if not 0 <= recipe.seed < 2**31:
        raise UserError(f"SEED must be from 0 to 2^31 - 1, got {recipe.seed}.")
    if recipe.batch_size % recipe.microbatches:
        raise UserError(f"{recipe.microbatches} MICROBATCHES do not divide a BATCH_SIZE of {recipe.batch_size} rows.")
    if recipe.patience is not None:
        check_positive("patience", recipe.patience)
        if recipe.best_metric is None:
            raise UserError("PATIENCE counts validations without a better BEST_METRIC: name a figure there.")
    if recipe.best_is not in (None, HIGHEST, LOWEST):
        raise UserError(
            f"BEST_IS is {HIGHEST!r} or {LOWEST!r}, not {recipe.best_is!r}.{nearest(recipe.best_is, (HIGHEST, LOWEST))}"
        )
    bands, period, saves = recipe.frequency_bands, recipe.keep_period, recipe.checkpoint_period
    if bands and (min(bands) <= 0 or abs(sum(bands) - 1) > 1e-6):
        raise UserError(f"FREQUENCY_BANDS = {bands} must be positive shares with a sum of 1.")
    if period is not None:
        check_positive("keep_period", period)
        if period % saves:
            raise UserError(
                f"KEEP_PERIOD = {period} must be a multiple of CHECKPOINT_PERIOD = {saves}, such as "
                f"{max(round(period / saves), 1) * saves}."
            )


def check_length(recipe: "Recipe") -> None:
    """Raises UserError unless one setting says how long the run is."""
    if recipe.epochs is not None:
        check_positive("epochs", recipe.epochs)
        if isinstance(recipe.dataset, Mixture):
            raise UserError(f"EPOCHS = {recipe.epochs} are one text's; in a mixture each part has its own epochs.")
    if recipe.ends_with_data and recipe.train_steps is not None:
        epochs = recipe.epochs_of_parts if recipe.epochs is None else recipe.epochs
        raise UserError(
            f"TRAIN_STEPS = {recipe.train_steps} and EPOCHS = {epochs} both say how long the run is: leave one of them "
            "out, with --gin.EPOCHS=None or --gin.TRAIN_STEPS=None."
        )
    if recipe.train_steps is not None or (isinstance(recipe.curriculum, Curriculum) and not recipe.ends_with_data):
        check_positive("train_steps", recipe.train_steps)


def check_stages(recipe: "Recipe") -> None:
    """Raises UserError for stages that do not fit the steps, once these are known."""
    if recipe.train_steps is None:
        return
    if isinstance(recipe.curriculum, Curriculum):
        recipe.curriculum.spans(recipe.train_steps)
    starts = recipe.dataset.starts if isinstance(recipe.dataset, Mixture) else ()
    if any(start >= recipe.train_steps for start in starts):
        raise UserError(f"RATE_STARTS = {starts} go past the last of {recipe.train_steps} steps (TRAIN_STEPS).")
