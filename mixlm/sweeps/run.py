"""Trains the cells of a study in this process, one after another or several together, each a run like any other."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from mixlm.errors import Stopped, UserError
from mixlm.recipe import Recipe
from mixlm.reports.metrics import duration
from mixlm.sweeps.cells import Cell
from mixlm.sweeps.evaluate import evaluate, is_evaluated
from mixlm.sweeps.parts import parameters_of
from mixlm.sweeps.start import check_start
from mixlm.sweeps.states import DONE, FAILED, MISSING, settled_state, state_in
from mixlm.sweeps.sweep import Sweep
from mixlm.training import programs
from mixlm.training.origin import origin
from mixlm.training.run import train
from mixlm.training.signals import Signals
from mixlm.training.together import groups, train_together

Say = Callable[[str], Any]
PAUSE = 1.0  # Ours: seconds between looks at a stem that another process trains.


def run_cells(
    sweep: Sweep, say: Say = print, retry: bool = False, cells: Sequence[Cell] | None = None, together: int = 1
) -> None:
    """Trains and evaluates the cells that are missing, up to `together` in one program.

    With `retry` those that failed before are run as well. A cell that fails is marked with its sentence, and the others
    go on. Raises UserError for a mistake in any cell before the first one runs, and Stopped for a signal, with the
    running cell saved.
    """
    recipes = sweep.check()
    waiting = list(sweep.cells if cells is None else cells)
    check_start(sweep, recipes, waiting)
    sweep.folder.write(sweep.content)
    signals = Signals()
    signals.outcome = lambda: f"what was trained is in {sweep.folder}"
    with signals.handled(), programs.kept():
        if retry:
            _forget_failures(sweep, waiting)
        while waiting:
            ready = [cell for cell in waiting if _is_ready(sweep, cell)]
            # A stem that nobody trains comes before what leaves it, also where that alone was asked for.
            stems = [] if ready else _idle_stems(sweep, waiting)
            for team in _teams(ready or stems, recipes, together):
                _run(sweep, team, recipes, say)
            waiting = [cell for cell in waiting if cell not in ready]
            if waiting and not ready and not stems:
                time.sleep(PAUSE)


def _forget_failures(sweep: Sweep, cells: Sequence[Cell]) -> None:
    for cell in cells:
        if state_in(sweep.folder, cell.name) == FAILED:
            sweep.folder.note(cell.name, error=None)


def _is_ready(sweep: Sweep, cell: Cell) -> bool:
    """False for a fork whose stem has not come to its step yet."""
    fork = sweep.forks.get(cell.name)
    if fork is None or state_in(sweep.folder, cell.name) != MISSING:
        return True
    if fork.step is not None and (sweep.folder.run(fork.stem).checkpoints / str(fork.step)).is_dir():
        return True
    return state_in(sweep.folder, fork.stem) in (DONE, FAILED)


def _idle_stems(sweep: Sweep, cells: Sequence[Cell]) -> list[Cell]:
    """The stems of these forks that no process is training."""
    names = dict.fromkeys(sweep.forks[cell.name].stem for cell in cells)
    return [sweep.cell(name) for name in names if state_in(sweep.folder, name) == MISSING]


def _teams(cells: Sequence[Cell], recipes: dict[str, Recipe], together: int) -> list[list[Cell]]:
    """Cells in the order in which they are run, in groups that one program can train."""
    if together == 1:
        return [[cell] for cell in cells]
    by_folder = {recipes[cell.name].folder: cell for cell in cells}
    found = groups([recipes[cell.name] for cell in cells], together)
    return [[by_folder[recipe.folder] for recipe in members] for members in found]


def _run(sweep: Sweep, team: Sequence[Cell], recipes: dict[str, Recipe], say: Say) -> None:
    """Claims the cells of a team, and trains and evaluates those that are this process's and not settled."""
    with ExitStack() as claims:
        mine = []
        for cell in team:
            if not claims.enter_context(sweep.folder.claim(cell.name)):
                say(f"{_number(sweep, cell)}  is being trained by another process")
            elif not _is_settled(sweep, cell):
                mine.append(cell)
        if mine:
            _attempt(sweep, mine, recipes, say)


def _number(sweep: Sweep, cell: Cell) -> str:
    return f"{sweep.cells.index(cell) + 1}/{len(sweep.cells)}  {cell.name}"


def _is_settled(sweep: Sweep, cell: Cell) -> bool:
    """True for a cell that this process has claimed and that is done, or failed before."""
    state = settled_state(sweep.folder, cell.name, sweep.folder.record(cell.name))
    if state == DONE and not is_evaluated(sweep, cell):
        sweep.folder.note(cell.name, open=True)
        return False
    return state in (DONE, FAILED)


def _attempt(sweep: Sweep, cells: Sequence[Cell], recipes: dict[str, Recipe], say: Say) -> None:
    folder, begun = sweep.folder, time.monotonic()
    untrained = [cell for cell in cells if not folder.run(cell.name).curves.exists()]
    before = {cell.name: folder.record(cell.name).get("seconds", 0.0) for cell in untrained}
    errors: dict[str, BaseException] = {}
    for cell in cells:
        say(_number(sweep, cell))
    for cell in untrained:
        folder.note(cell.name, **origin(), parameters=parameters_of(recipes[cell.name]), open=True, process=os.getpid())
    try:
        if len(untrained) > 1:
            found = train_together([recipes[cell.name] for cell in untrained], _silent)
            errors |= {cell.name: error for cell, error in zip(untrained, found) if error is not None}
        elif untrained:
            train(recipes[untrained[0].name], _silent)
    except Stopped as stopped:  # These cells are neither done nor failed.
        raise Stopped(stopped.name, f"{untrained[0].name}, {stopped.outcome}") from None
    except Exception as error:  # Whatever ends these cells, the others go on.
        errors |= {cell.name: error for cell in untrained}
    took = (time.monotonic() - begun) / max(len(untrained), 1)
    for cell in untrained:
        folder.note(cell.name, seconds=round(before[cell.name] + took, 3))
    for cell in cells:
        _finish(sweep, cell, errors.get(cell.name), say)
    say(f"  {duration(time.monotonic() - begun)}")


def _finish(sweep: Sweep, cell: Cell, error: BaseException | None, say: Say) -> None:
    """Evaluates a trained cell and notes that it is done, or that it failed."""
    try:
        if error is not None:
            raise error
        evaluate(sweep, cell, _silent)
        sweep.folder.note(cell.name, open=False, process=None)
    except Exception as failure:
        sentence = _sentence(failure)
        sweep.folder.note(cell.name, error=sentence, process=None)
        say(f"  {cell.name} failed: {sentence}")


def _sentence(error: Exception) -> str:
    """The error that a cell failed with, on one line."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text[:500]}"


def _silent(_: str) -> None:
    """The report of one cell is in its folder."""
