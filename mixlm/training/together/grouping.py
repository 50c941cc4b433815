"""Groups of runs that one program can train: equal in all that is static, different in traced numbers and rows."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mixlm.data.dataset import Dataset
from mixlm.errors import UserError
from mixlm.evaluation.tasks.in_training import is_judged
from mixlm.network import LayeredNetwork
from mixlm.objectives.curriculum import Blocks
from mixlm.recipe import Recipe
from mixlm.schedules import scaled_to
from mixlm.training import traced_hparams
from mixlm.values import MOST_STEPS

# Implementations of attention that batch over cells; what is best on a device is not always one of them.
BATCHED = ("auto", "plain", "recomputed")


def groups(recipes: Sequence[Recipe], k: int) -> list[list[Recipe]]:
    """The recipes in groups of at most `k` that `train_together` can train, in order of their first members.

    Recipes are together where they differ in nothing but traced numbers (shares, weights, rates, schedules), switches
    of stages, seeds, warm starts, EPOCHS and UNIQUE_TOKENS. Groups of one kind have sizes that differ by one at most,
    since another size compiles anew. A recipe that cannot be batched at all is a group by itself.
    """
    if k < 1:
        raise UserError(f"Runs are trained {k} together; give at least 1.")
    kinds: list[tuple[dict[str, Any], list[Recipe]]] = []
    for recipe in recipes:
        static = static_parts(recipe)
        alike = [members for kind, members in kinds if kind == static] if refusal(recipe) is None else []
        if alike:
            alike[0].append(recipe)
        else:
            kinds.append((static, [recipe]))
    found = []
    for _, members in kinds:
        count = -(-len(members) // k)
        bounds = [len(members) * index // count for index in range(count + 1)]
        found += [members[start:end] for start, end in itertools.pairwise(bounds)]
    return found


def check_together(recipes: Sequence[Recipe]) -> None:
    """Raises UserError where two recipes differ in something static, share a folder, or cannot be batched."""
    if not recipes:
        raise UserError("There are no runs to train together.")
    folders: dict[Any, Recipe] = {}
    for recipe in recipes:
        if (sentence := refusal(recipe)) is not None:
            raise UserError(sentence)
        if recipe.folder in folders:
            raise UserError(f"Two runs are to be trained together in one folder, {recipe.folder}.")
        folders[recipe.folder] = recipe
    first = static_parts(recipes[0])
    for recipe in recipes[1:]:
        other = static_parts(recipe)
        for name, value in first.items():
            if value != other[name]:
                raise UserError(
                    f"{recipes[0].folder} and {recipe.folder} cannot be trained together: they differ in {name}."
                )


def refusal(recipe: Recipe) -> str | None:
    """The sentence that says why a recipe cannot be batched with others; None where it can."""
    mesh = recipe.partitioning
    for axis in ("data", "fsdp", "sequence", "tensor"):
        size = getattr(mesh, axis)
        if size != 1 and (axis, size) != ("data", -1):
            return (
                f"{recipe.folder}: {axis.upper()}_PARTITIONS = {size} cuts a run over devices, and cells that are "
                "trained together have a device each, or share one: leave it out, or train the run alone."
            )
    if is_judged(recipe):
        return (
            f"{recipe.folder}: the metrics of its tasks are computed while it trains, each run's by itself: give "
            "METRIC_EXAMPLES=0, or train it alone."
        )
    if recipe.patience is not None:
        return f"{recipe.folder}: PATIENCE ends a run by itself: leave it out, or train the run alone."
    for name, module in recipe.networks.items():
        attention = module.execution.attention if isinstance(module, LayeredNetwork) else "auto"
        if attention not in BATCHED:
            return (
                f"{recipe.folder}: ATTENTION = {attention!r} of the network {name!r} is a kernel that does not batch "
                f"over cells: give one of {', '.join(BATCHED)}, or train it alone."
            )
    return None


def static_parts(recipe: Recipe) -> dict[str, Any]:
    """The static parts of a recipe's programs and of the times of its log, by name, without traced numbers."""
    curriculum = recipe.curriculum
    data: Any = recipe.dataset
    if isinstance(data, Dataset):
        data = replace(data, unique_tokens=None)
    return {
        "networks": recipe.modules,
        "objectives": tuple(map(_static, curriculum.distinct)),
        "the names of blocks": tuple(curriculum.objectives) if isinstance(curriculum, Blocks) else (),
        "optimizer": _static(recipe.optimizer),
        "validation": tuple(map(_static, recipe.validation)),
        "dataset": (data, recipe.dataset.cache),
        "TOKENS": recipe.tokens,
        "BATCH_SIZE": recipe.batch_size,
        "MICROBATCHES": recipe.microbatches,
        "TASK_FEATURE_LENGTHS": dict(recipe.lengths),
        "TRAIN_STEPS": recipe.train_steps,
        "the mesh": recipe.partitioning,
        "FREQUENCY_BANDS": recipe.frequency_bands,
        **{
            name.upper(): getattr(recipe, name)
            for name in ("log_period", "eval_period", "eval_batches", "checkpoint_period")
        },
    }


def _static(value: Any) -> Any:
    """A value without its traced numbers; what depends on the run's length is a number there."""
    return traced_hparams.hoist(scaled_to(value, MOST_STEPS))[0]
