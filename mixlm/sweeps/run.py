"""Trains the cells of a study one after another in this process, each a run like any other."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

from mixlm.checkpoints.load import abstract_params
from mixlm.errors import UserError
from mixlm.parallel.processes import group
from mixlm.recipe import Recipe
from mixlm.reports.metrics import duration
from mixlm.reports.units import parameters
from mixlm.sweeps.cells import Cell
from mixlm.sweeps.evaluate import evaluate, is_evaluated
from mixlm.sweeps.origin import origin
from mixlm.sweeps.states import DONE, FAILED, settled_state
from mixlm.sweeps.sweep import Sweep
from mixlm.training import programs
from mixlm.training.run import train
from mixlm.training.signals import Signals, Stopped

Say = Callable[[str], Any]


def run_cells(sweep: Sweep, say: Say = print, retry: bool = False, cells: list[Cell] | None = None) -> None:
    """Trains and evaluates the cells that are missing; with `retry` those that failed before as well.

    A cell that fails is marked with its sentence, and the others go on. Raises UserError for a mistake in any cell
    before the first one runs, and Stopped for a signal, with the running cell saved.
    """
    recipes = sweep.check()
    sweep.folder.write(sweep.content)
    chosen = list(sweep.cells if cells is None else cells)
    signals = Signals()
    signals.outcome = lambda: f"what was trained is in {sweep.folder}"
    with signals.handled(), programs.kept():
        for number, cell in enumerate(chosen, 1):
            with sweep.folder.claim(cell.name) as mine:
                if not mine:
                    say(f"{number}/{len(chosen)}  {cell.name}  is being trained by another process")
                    continue
                if _is_settled(sweep, cell, retry):
                    continue
                say(f"{number}/{len(chosen)}  {cell.name}")
                _attempt(sweep, cell, recipes[cell.name], say)


def _is_settled(sweep: Sweep, cell: Cell, retry: bool) -> bool:
    """True for a cell that this process has claimed and that is done, or failed before and is not tried again."""
    folder = sweep.folder
    state = settled_state(folder, cell.name, folder.record(cell.name))
    if state == FAILED and retry:
        folder.note(cell.name, error=None)
        return False
    if state == DONE and not is_evaluated(sweep, cell):
        folder.note(cell.name, open=True)
        return False
    return state in (DONE, FAILED)


def _attempt(sweep: Sweep, cell: Cell, recipe: Recipe, say: Say) -> None:
    folder, begun = sweep.folder, time.monotonic()
    before = folder.record(cell.name).get("seconds", 0.0)
    try:
        if not folder.run(cell.name).curves.exists():
            folder.note(cell.name, **origin(), parameters=_parameters(recipe), open=True)
            train(recipe, _silent)
            if not folder.run(cell.name).curves.exists():
                raise Stopped(group().stop_reason or "SIGTERM", f"cell {cell.name} is saved")
            folder.note(cell.name, seconds=round(before + time.monotonic() - begun, 3))
        evaluate(sweep, cell, _silent)
        folder.note(cell.name, open=False)
    except KeyboardInterrupt:
        raise
    except Exception as error:  # Whatever ends one cell, the others go on.
        sentence = _sentence(error)
        folder.note(cell.name, error=sentence)
        say(f"  failed: {sentence}")
    else:
        say(f"  done in {duration(time.monotonic() - begun)}")


def _sentence(error: Exception) -> str:
    """What a cell failed with, on one line."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text[:500]}"


@cache
def _of_modules(modules: Any, partitioning: Any) -> int:
    return sum(parameters(abstract_params(module, partitioning.layout())) for _, module in modules)


def _parameters(recipe: Recipe) -> int:
    return _of_modules(recipe.modules, recipe.partitioning)


def _silent(_: str) -> None:
    """The report of one cell is in its folder."""
