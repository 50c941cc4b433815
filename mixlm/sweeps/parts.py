"""Sizes of a cell's networks."""

from functools import cache
from typing import Any

from mixlm.checkpoints.load import abstract_params
from mixlm.recipe import Recipe
from mixlm.reports.units import parameters


def parameters_of(recipe: Recipe) -> int:
    """The parameters of all networks, counted once for each set of them."""
    return _counted(recipe.modules, recipe.partitioning)


@cache
def _counted(modules: Any, partitioning: Any) -> int:
    return sum(parameters(abstract_params(module, partitioning.layout())) for _, module in modules)
