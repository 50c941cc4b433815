"""Runs that are trained together, from their recipes to their reports."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jax

from mixlm.checkpoints.orbax_io import quiet_orbax
from mixlm.checkpoints.warm_start import WarmStart
from mixlm.errors import UserError
from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
from mixlm.recipe import Recipe
from mixlm.reports.drawing import draw_all
from mixlm.reports.journal import FINISHED, note_end
from mixlm.training.prepare import PreparedRun, prepare, prepare_like
from mixlm.training.report import finish
from mixlm.training.signals import Signals
from mixlm.training.together.cell import Cell, Say, enter, guarded, open_cell, settle
from mixlm.training.together.grouping import check_together
from mixlm.training.together.loop import CellsLoop


def train_together(recipes: Sequence[Recipe], say: Say = print) -> list[UserError | None]:
    """Trains recipes that differ in traced numbers, seeds and rows as one program under `vmap`, each in its folder.

    Each folder ends as `train` of its recipe would have left it, to rounding, and goes on alone or together. A cell
    that is behind the others, since its newest checkpoint is older, catches up first. A run that is over is left alone.
    Returns for each recipe the error that ended it, None where there was none: a folder of another run, a loss that is
    not finite. The others go on. Raises UserError, with nothing done, for recipes that are not of one group (`groups`),
    and Stopped for a signal that comes before their end, with what was trained saved.
    """
    check_together(recipes)
    if jax.process_count() > 1:
        raise UserError("Runs are trained together in one process, and there are several: train each alone.")
    signals = Signals()
    cache = recipes[0].dataset.cache / EXECUTABLES
    with signals.handled(), quiet_orbax(), kept_in(cache), ExitStack() as opened:
        return _train(recipes, say, signals, opened)


def _train(recipes: Sequence[Recipe], say: Say, signals: Signals, opened: ExitStack) -> list[UserError | None]:
    # Before any data are read: whose folders are the right ones, and where is work left?
    errors: list[UserError | None] = [None] * len(recipes)
    entered: list[tuple[int, Cell]] = []
    for index, recipe in enumerate(recipes):
        try:
            if (cell := enter(recipe, say)) is not None:
                entered.append((index, cell))
        except UserError as error:
            errors[index] = error
            say(f"{error} The other cells go on.")

    # The data, each set once; the first cell is traced, for its FLOPs, and the others are like it.
    shared = _Shared(say)
    opened.callback(shared.close)
    cells = guarded([cell for _, cell in entered], lambda cell: settle(cell, shared.prepare, say), say)
    cells = guarded(cells, lambda cell: open_cell(cell, _silent, opened), say)
    if cells:
        say(_described(cells))
        signals.outcome = lambda: f"{len(cells)} runs keep their newest checkpoints"
        training = [cell for cell in cells if cell.begun < cell.last]
        if training:
            CellsLoop(training, say, signals).run()
        _report([cell for cell in cells if cell.error is None], say)
    for index, cell in entered:
        errors[index] = cell.error
    return errors


class _Shared:
    """Parts that cells share: data that are equal, walks over them, and what is traced of the first of them."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._first: PreparedRun | None = None
        self._data: list[tuple[Any, Any, Any]] = []
        self._walks: dict[Any, Any] = {}

    def prepare(self, recipe: Recipe, warm_start: WarmStart | None) -> PreparedRun:
        """The prepared run of a cell."""
        data = self._prepared_data(recipe.dataset)
        if self._first is None:
            # One device stands for each: a cell's step is not cut.
            found = self._first = prepare(recipe, data, 0, warm_start, jax.devices()[:1], ahead=False)
        else:
            found = prepare_like(self._first, recipe, data, warm_start)
        walk = self._walks.setdefault((id(data), recipe.seed, recipe.epochs), found.train_blocks)
        return replace(found, train_blocks=walk)

    def _prepared_data(self, dataset: Any) -> Any:
        for known, cache, data in self._data:
            if known == dataset and cache == dataset.cache:
                return data
        data = dataset.prepare(self._say)
        self._data.append((dataset, dataset.cache, data))
        return data

    def close(self) -> None:
        """Ends the threads of the first cell's programs."""
        if self._first is not None:
            self._first.close()


def _described(cells: Sequence[Cell]) -> str:
    first = cells[0].recipe
    resumed = sum(cell.begun > 0 for cell in cells)
    return (
        f"training {len(cells)} runs of {first.name} together, {first.batch_size} x {first.block_length} tokens a step "
        f"each, from {cells[0].name} on{f'; {resumed} of them resume' if resumed else ''}"
    )


def _report(cells: Sequence[Cell], say: Say) -> None:
    """The report of each cell; the curves of all are drawn at once."""
    pictures: list[dict[str, Any]] = []

    def report(cell: Cell) -> None:
        finish(cell.prepared, cell.folder, cell.state, _silent, lambda **picture: pictures.append(picture))
        note_end(cell.folder.path, FINISHED)

    cells = guarded(cells, report, say)
    draw_all(pictures)
    for cell in cells:
        say(f"{cell.name} has finished its {cell.last} steps; its curves are in {cell.folder.curves}.")


def _silent(_: str) -> None:
    """Printing of a cell, whose sentences are many."""
