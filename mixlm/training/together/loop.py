"""The loop of cells: many steps a dispatch, a ledger for each cell, and a cell that fails does not stop the others."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from mixlm.errors import UserError
from mixlm.parallel.processes import group
from mixlm.reports.metrics import Progress
from mixlm.training.loop import Clock
from mixlm.training.signals import Signals
from mixlm.training.together.cell import Cell, Say, fail, guarded
from mixlm.training.together.program import Programs
from mixlm.training.together.rows import STEPS, Rows
from mixlm.training.together.team import Segment, Team, regrouped, segments

SECONDS = 0.5  # Ours: a dispatch is that long, as far as STEPS go: long for a host, and short for who waits for a stop.


class CellsLoop:
    """Trains cells to their last steps; those that end keep their state for their report in `cell.state`."""

    def __init__(self, cells: Sequence[Cell], say: Say, signals: Signals):
        self.cells, self.say, self.signals = list(cells), say, signals
        walks = {id(cell.prepared.train_blocks): cell.prepared.train_blocks for cell in cells}
        self.walks = {key: number for number, key in enumerate(walks)}
        prepared = cells[0].prepared
        recipe = prepared.recipe
        self.programs = Programs(prepared, len(walks))
        vocabulary = recipe.tokens.vocab_size
        self.rows = Rows(list(walks.values()), recipe.batch_size, recipe.before, vocabulary)
        self.plan = segments(cells)
        self.begun = min(cell.begun for cell in cells)
        self.end = max(cell.last for cell in cells)
        self.chunk = 1
        self.teams: list[Team] = []

    def run(self) -> bool:
        """Trains and saves; returns False where a signal came first."""
        with ExitStack() as opened:
            opened.callback(self.rows.close)
            opened.callback(self.programs.close)
            self.compile()
            self.clock = Clock(self.begun)
            group().begin(self.begun)
            self.progress = opened.enter_context(Progress(self.end, self.begun))
            with self.signals.deferred(group().request_stop):
                done = self.steps()
                if done < self.end and any(cell.error is None for cell in self.cells):
                    self.say(f"{group().stop_reason} came: saving; another signal leaves at once.")
                    self.save(done, [cell for cell in self.cells if self.is_unsaved(cell, done)])
                guarded(self.alive, lambda cell: cell.checkpoints.wait(), self.say)
        if group().stop_reason is not None and done < self.end:
            self.say(f"{group().stop_reason} came: saved after step {done}; the same command goes on from there.")
            return False
        return True

    @property
    def alive(self) -> list[Cell]:
        """The cells without an error."""
        return [cell for cell in self.cells if cell.error is None]

    def is_unsaved(self, cell: Cell, done: int) -> bool:
        """True for a cell that has taken steps since its newest checkpoint."""
        return cell.error is None and cell.begun < done < cell.last and done != (cell.ledger.saved or 0)

    def compile(self) -> None:
        """Begins to compile all programs in their order, and waits for the first."""
        validates = True
        for segment in self.plan:
            for team in segment.active:
                self.programs.steps(segment.objective(team), len(team))
                if validates:
                    for objective in team[0].recipe.validated:
                        self.programs.validation(objective, len(team))
                    validates = False
        segment = next(segment for segment in self.plan if segment.active)
        self.programs.steps(segment.objective(segment.active[0]), len(segment.active[0])).result()

    def steps(self) -> int:
        """Trains until all cells have ended, or a signal comes; returns the steps that are done."""
        step = self.begun
        for segment in self.plan:
            if segment.end <= self.begun:
                continue
            self.form(segment)
            step = max(segment.first, self.begun)
            while step < segment.end:
                if not group().may_step(step) or not self.alive:
                    return step
                step = self.advance(step, segment)
        return step

    def form(self, segment: Segment) -> None:
        """Makes the teams of a segment, with the states that their cells have."""
        teams = [
            Team(cells, segment.objective(cells), segment.first, self.programs, self.walks) for cells in segment.teams
        ]
        regrouped(self.teams, teams, self.programs)
        self.teams = teams

    def advance(self, step: int, segment: Segment) -> int:
        """Dispatches a chunk of steps, and does what is due after it; returns the steps that are done."""
        steps = min(self.chunk, STEPS - step % STEPS, self.next_event(step) - step, segment.end - step)
        rows, active = self.rows.block(step), [set(cells) for cells in segment.active]
        begun = time.perf_counter()
        found = [(team, team.advance(rows, step, steps)) for team in self.teams if set(team.cells) in active]
        done = step + steps
        self.settle(step, done, found)
        self.chunk = max(1, min(STEPS, int(SECONDS * steps / (time.perf_counter() - begun))))
        return done

    def next_event(self, step: int) -> int:
        """The next step after which a cell is validated or saved."""
        recipe = self.cells[0].recipe
        periods = (recipe.eval_period, recipe.checkpoint_period)
        ends = [cell.last for cell in self.cells if cell.last > step]
        return min([*ends, *((step // period + 1) * period for period in periods)])

    def settle(self, first: int, done: int, found: Sequence[tuple[Team, Any]]) -> None:
        """Fetches the metrics of some steps, and logs, validates and saves what is due after the last of them."""
        lines: list[tuple[Cell, int, dict[str, Any]]] = []
        fetched = [(team, np.asarray(metrics)) for team, metrics in found]
        since = self.clock.done
        rate = self.clock.rate(done)
        for team, values in fetched:
            for index, cell in enumerate(team.cells):
                lines += self.counted(cell, first, done, team.names, values[:, index], since, rate)
        with self.clock.stopped():
            validated = self.validate(done)
            for cell, step, line in lines:
                if cell.error is None:
                    line |= validated.get(cell, {}) if step == done else {}
                    guarded([cell], partial(_write, step, line), self.say)
            self.save(done, [cell for cell in self.took(done) if cell.ledger.is_saved(done)])
        self.show(done, lines, rate)

    def counted(
        self, cell: Cell, first: int, done: int, names: Sequence[str], values: np.ndarray, since: int, rate: float
    ) -> list[tuple[Cell, int, dict[str, Any]]]:
        """Counts the steps that a cell has taken; returns the lines that are due, up to one that is not finite."""
        lines = []
        for step in range(max(first, cell.begun), min(done, cell.last)) if cell.error is None else ():
            figures = dict(zip(names, values[step - first].tolist()))
            try:
                cell.ledger.add(step + 1, figures)
            except UserError as error:
                fail(cell, error, self.say)
                break
            if cell.ledger.is_logged(step + 1) or cell.ledger.is_validated(step + 1):
                lines.append((cell, step + 1, cell.ledger.line(step + 1, figures, since, rate)))
        return lines

    def took(self, done: int) -> list[Cell]:
        """The cells without an error that have taken the step."""
        return [cell for cell in self.alive if cell.begun < done <= cell.last]

    def validate(self, done: int) -> Mapping[Cell, dict[str, float]]:
        """The validation of each cell that is due after a step."""
        due = {cell for cell in self.took(done) if cell.ledger.is_validated(done)}
        found: dict[Cell, dict[str, float]] = {}
        for team in self.teams:
            if own := [cell for cell in team.cells if cell in due]:
                found |= team.validate(own, done)
        return found

    def save(self, done: int, cells: Sequence[Cell]) -> None:
        """Begins to save cells in the background; those that end keep their parameters for their report."""
        teams = {cell: team for team in self.teams for cell in team.cells}

        def begin(cell: Cell) -> None:
            state = teams[cell].state(cell)
            if cell.ledger.saved != done:
                cell.ledger.save(done, state)
            if done == cell.last:
                cell.state = state.replace(opt_state={})

        guarded(cells, begin, self.say)

    def show(self, done: int, lines: Sequence[tuple[Cell, int, dict[str, Any]]], rate: float) -> None:
        """A line of progress: the mean loss of the cells, and the tokens per second of all together."""
        last = [line for cell, step, line in lines if step == done and cell.error is None]
        if not last:
            self.progress.advance(done)
            return
        figures = {"loss": float(np.mean([line["loss"] for line in last]))}
        figures["tokens_per_second"] = sum(line["tokens_per_second"] for line in last)
        self.progress.update(done, f"{len(self.alive)} cells", figures)


def _write(step: int, line: Mapping[str, Any], cell: Cell) -> None:
    cell.ledger.write(step, line)
