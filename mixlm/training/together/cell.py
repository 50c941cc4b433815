"""A cell: a run that is trained together with others, with its folder, its checkpoints and its ledger."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.checkpoints.warm_start import WarmStart, find_warm_start, step_of
from mixlm.errors import UserError
from mixlm.recipe import Recipe
from mixlm.reports.journal import note_end
from mixlm.reports.trackers.chosen import check_installed
from mixlm.training.begin import acquire, confirm, is_over, resume_record
from mixlm.training.journal import begin
from mixlm.training.ledger import Ledger, last_checkpoint
from mixlm.training.named import passed_by
from mixlm.training.prepare import PreparedRun

Say = Callable[[str], None]


@dataclass(eq=False)
class Cell:
    """A run among others; `error` ends it, and the others go on.

    `latest` is the step of its newest checkpoint, 0 without one; `begun` steps are done where it begins, `state` is
    the one after them until it is stacked with the others', and `ledger` is there from then on.
    """

    recipe: Recipe
    folder: RunDir
    checkpoints: Checkpoints
    identity: dict[str, str]
    latest: int = 0
    source: str | None = None  # the checkpoint that an earlier start took as its warm start
    prepared: Any = None
    begun: int = 0
    state: Any = None
    note: dict[str, Any] = field(default_factory=dict)
    ledger: Any = None
    error: UserError | None = None

    @property
    def name(self) -> str:
        """The folder, by which sentences name the cell."""
        return str(self.folder.path)

    @property
    def last(self) -> int:
        """The run's length in steps."""
        return self.recipe.steps

    def kept(self) -> str:
        """The part of a sentence that names the newest checkpoint."""
        return last_checkpoint(self.checkpoints.written(), self.folder)

    def at(self, step: int) -> Any:
        """The objective of a step (they count from 0)."""
        return self.recipe.stages.at(step).objective


def enter(recipe: Recipe, say: Say) -> Cell | None:
    """The cell of a recipe before any data are read; None for a run that is over.

    Raises UserError where its folder holds another run or lost its checkpoints, or a tracker is not installed.
    """
    if recipe.ref.which is not None:
        raise UserError(f"MODEL_DIR = {recipe.model_dir!r} names a checkpoint, and not the folder of a run.")
    folder, identity = RunDir(recipe.folder), recipe.identity()
    check_installed(recipe.trackers)
    confirm(folder, identity)
    checkpoints = Checkpoints(folder.checkpoints, recipe.keep, recipe.best, recipe.keep_best, recipe.keep_period)
    latest = checkpoints.latest() or 0
    if recipe.train_steps is not None and is_over(recipe.train_steps, latest, latest, folder, say, None):
        return None
    if not latest:
        folder.check_untrained(recipe.checkpoint_period)
    return Cell(recipe, folder, checkpoints, identity, latest, folder.read_identity().get("began"))


def settle(cell: Cell, prepare: Callable[[Recipe, WarmStart | None], PreparedRun], say: Say) -> bool:
    """Prepares a cell, whose length its data tell; False for a run that is over."""
    warm_start = None if cell.latest else find_warm_start(cell.recipe, cell.source)
    cell.prepared = prepare(cell.recipe, warm_start)
    cell.recipe = cell.prepared.recipe
    first = cell.latest if warm_start is None else warm_start.first
    if is_over(cell.last, cell.latest, first, cell.folder, say, None):
        return False
    cell.identity |= cell.prepared.fingerprints
    confirm(cell.folder, cell.identity)
    if (name := cell.source if warm_start is None else warm_start.name) is not None:
        cell.identity |= {"began": name}
    return True


def open_cell(cell: Cell, say: Say, opened: ExitStack) -> None:
    """Takes the cell's folder, its state and its record; `opened` releases them."""
    opened.callback(cell.folder.release)
    opened.callback(cell.checkpoints.close)
    recipe, source = cell.recipe, cell.source
    cell.begun, cell.state, cell.note = acquire(
        cell.prepared, cell.folder, cell.checkpoints, cell.identity, cell.latest, source, lambda: None
    )
    began = step_of(source) if source and recipe.init_optimizer else 0
    said = resume_record(recipe, cell.folder, cell.checkpoints, cell.begun, cell.note, began)
    said += passed_by(cell.prepared.names, cell.checkpoints, cell.begun)
    for line in said:
        say(line)
    if cell.begun < cell.last:
        cell.folder.remove_report()
    begin(cell.prepared, cell.folder, cell.begun, [*cell.checkpoints.told, *said])
    cell.ledger = Ledger(cell.prepared, cell.folder, cell.checkpoints)
    cell.ledger.begin(cell.begun, cell.note, say, opened)


def guarded(cells: Sequence[Cell], work: Callable[[Cell], Any], say: Say) -> list[Cell]:
    """Does something for each cell; returns those for which it returned neither False nor an error."""
    kept = []
    for cell in cells:
        try:
            with cell.folder.written(cell.kept):
                if work(cell) is not False:
                    kept.append(cell)
        except UserError as error:
            fail(cell, error, say)
    return kept


def fail(cell: Cell, error: UserError, say: Say) -> None:
    """Marks a cell as failed, with the sentence that ends it."""
    text = str(error)
    if cell.ledger is not None:
        with contextlib.suppress(OSError, UserError):
            note_end(cell.folder.path, text)
    cell.error = error if cell.name in text else UserError(f"{cell.name}: {text}")
    cell.state = None
    say(f"{cell.error} The other cells go on.")
