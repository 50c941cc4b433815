"""Checks before any cell of a study is trained: what it begins from is there, what it ends with can be made."""

from collections.abc import Mapping, Sequence

from mixlm.checkpoints.warm_start import find_warm_start
from mixlm.errors import UserError
from mixlm.evaluation.run import settle
from mixlm.recipe import Recipe
from mixlm.sweeps.cells import Cell
from mixlm.sweeps.evaluate import asked_of, is_evaluated
from mixlm.sweeps.sweep import Sweep


def check_start(sweep: Sweep, recipes: Mapping[str, Recipe], cells: Sequence[Cell]) -> None:
    """Raises UserError where INIT_FROM names no usable checkpoint, or an evaluation cannot be made."""
    fresh = [cell for cell in cells if cell.name not in sweep.forks and not sweep.folder.run(cell.name).recipe.exists()]
    # One of each arm and beginning: a checkpoint may be large, and it is looked at whole.
    seen: dict[tuple[str, str | None], Cell] = {}
    for cell in fresh:
        seen.setdefault((cell.arm, recipes[cell.name].init_from), cell)
    for cell in seen.values():
        try:
            find_warm_start(recipes[cell.name])
        except UserError as error:
            raise UserError(f"Cell {cell.name}: {error}") from None
    for cell in {cell.arm: cell for cell in cells if not is_evaluated(sweep, cell)}.values():
        _check_evaluations(sweep, cell)


def _check_evaluations(sweep: Sweep, cell: Cell) -> None:
    for name, asked in asked_of(sweep, cell).items():
        if not isinstance(asked, Mapping):
            continue
        recipe, scoring = sweep.variants_of(cell).build(sweep.text(cell, asked))
        if recipe.dataset.pairs is None:
            try:
                settle(recipe, scoring)
            except UserError as error:
                raise UserError(f"Evaluation {name!r}: {error}") from None
