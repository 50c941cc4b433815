"""The loop of cells: many steps a dispatch, a ledger for each cell, and a cell that fails does not stop the others."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from mixlm.errors import Stopped, UserError
from mixlm.parallel.processes import group
from mixlm.reports.journal import note_end
from mixlm.reports.metrics import Progress
from mixlm.training.loop import Clock
from mixlm.training.report import Watched
from mixlm.training.signals import Signals
from mixlm.training.together.cell import Cell, Say, fail, guarded
from mixlm.training.together.program import Programs
from mixlm.training.together.rows import STEPS, Rows
from mixlm.training.together.team import Segment, Team, regrouped, segments

Line = tuple[int, dict[str, Any]]  # the step, and what is said of it
SECONDS = 0.5  # Ours: a dispatch is that long, as far as STEPS go: long for a host, and short for who waits for a stop.

WRITERS = 8  # Ours: threads that write lines; most of that is waiting.


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
        self.late: Chunk | None = None  # dispatched, and not yet logged
        self.teams: list[Team] = []
        self.watched = {cell: Watched(cell.prepared, cell.folder, say) for cell in cells}

    def run(self) -> None:
        """Trains and saves; raises Stopped where a signal came first."""
        with ExitStack() as opened:
            opened.callback(self.rows.close)
            opened.callback(self.programs.close)
            self.compile()
            self.clock = Clock(self.begun)
            group().begin(self.begun)
            self.progress = opened.enter_context(Progress(self.end, self.begun))
            # What is waited for is the disk, for each cell's line: many at a time.
            self.pool = opened.enter_context(ThreadPoolExecutor(WRITERS, thread_name_prefix="lines"))
            with self.signals.deferred(group().request_stop):
                done = self.steps()
                if done < self.end and any(cell.error is None for cell in self.cells):
                    self.say(f"{group().stop_reason} came: saving; another signal leaves at once.")
                    self.save(done, [cell for cell in self.cells if self.is_unsaved(cell, done)])
                guarded(self.alive, lambda cell: cell.checkpoints.wait(), self.say)
        if group().stop_reason is not None and done < self.end:
            stopped = Stopped(str(group().stop_reason), f"saved after step {done}")
            for cell in self.alive:
                note_end(cell.folder.path, str(stopped))
            raise stopped

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
        done = self.begun
        for segment in self.plan:
            if segment.end <= self.begun:
                continue
            self.form(segment)
            while done < segment.end:
                if not group().may_step(done) or not self.alive:
                    self.settle()
                    return done
                chunk = self.dispatch(done, segment)
                # Logs the steps before while these run, so that the devices do not wait for the host.
                self.settle()
                self.late, done = chunk, chunk.done
                if done == self.next_event(done - 1):
                    self.conclude(done)
        return done

    def form(self, segment: Segment) -> None:
        """Makes the teams of a segment, with the states that their cells have."""
        teams = [
            Team(cells, segment.objective(cells), segment.first, self.programs, self.walks) for cells in segment.teams
        ]
        regrouped(self.teams, teams, self.programs)
        self.teams = teams

    def dispatch(self, first: int, segment: Segment) -> "Chunk":
        """Dispatches some steps of all teams that have one left, and waits for none."""
        steps = min(self.chunk, STEPS - first % STEPS, self.next_event(first) - first, segment.end - first)
        rows, active = self.rows.block(first), segment.active
        found = [(team, team.advance(rows, first, steps)) for team in self.teams if team.cells in active]
        return Chunk(first, first + steps, found)

    def next_event(self, step: int) -> int:
        """The next step after which a cell is validated or saved."""
        recipe = self.cells[0].recipe
        periods = (recipe.eval_period, recipe.checkpoint_period)
        ends = [cell.last for cell in self.cells if cell.last > step]
        named = [each for cell in self.cells for each in cell.prepared.names if each > step]
        return min([*ends, *named, *((step // period + 1) * period for period in periods)])

    def settle(self) -> None:
        """Fetches the metrics of the chunk before, and logs it."""
        if self.late is None:
            return
        chunk, self.late = self.late, None
        self.log(self.lines(chunk), {})

    def conclude(self, done: int) -> None:
        """Fetches the metrics of the last chunk; then validates and saves the cells that are due, and logs."""
        chunk, self.late = self.late, None
        lines = self.lines(chunk) if chunk is not None else {}
        with self.clock.stopped():
            validated = self.validate(done)
            self.log(lines, validated)
            self.look(done, [cell for cell in validated if cell.error is None])
            self.save(done, [cell for cell in self.took(done) if cell.ledger.is_saved(done)])

    def lines(self, chunk: "Chunk") -> dict[Cell, list[Line]]:
        """The lines that are due after the steps of a chunk, by cell; waits for its metrics."""
        fetched = [(team, np.asarray(metrics)) for team, metrics in chunk.found]
        since = self.clock.done
        rate = self.clock.rate(chunk.done)
        self.chunk = max(1, min(STEPS, int(SECONDS * rate)))
        return {
            cell: self.counted(cell, chunk, dict(zip(team.names, values[:, index].T)), since, rate)
            for team, values in fetched
            for index, cell in enumerate(team.cells)
        }

    def log(self, lines: Mapping[Cell, Sequence[Line]], validated: Mapping[Cell, Mapping[str, float]]) -> None:
        """Writes the lines, the last of a cell with its validation, if it has one; the disk is waited for at once."""

        def write(cell: Cell) -> None:
            for number, (step, line) in enumerate(lines[cell], 1):
                last = number == len(lines[cell])
                found = dict(validated.get(cell, {})) if last else {}
                cell.ledger.write(step, line | found, last)

        due = [cell for cell, own in lines.items() if own and cell.error is None]
        list(self.pool.map(lambda cell: guarded([cell], write, self.say), due))
        self.show(lines)

    def counted(
        self, cell: Cell, chunk: "Chunk", columns: Mapping[str, np.ndarray], since: int, rate: float
    ) -> list[Line]:
        """Counts the steps that a cell has taken; returns the lines that are due, up to one that is not finite."""
        lines: list[Line] = []
        start, end = max(chunk.first, cell.begun), min(chunk.done, cell.last)
        if cell.error is not None or start >= end:
            return lines
        finite = np.isfinite(columns["loss"]) & np.isfinite(columns["grad_norm"])
        bad = next((step for step in range(start, end) if not finite[step - chunk.first]), end)
        rows = {name: column.tolist() for name, column in columns.items()}
        counted = start
        for step in range(start, bad):
            due = cell.ledger.is_logged(step + 1) or cell.ledger.is_validated(step + 1)
            if due or step + 1 == bad:
                these = slice(counted - chunk.first, step + 1 - chunk.first)
                cell.ledger.add_steps(step + 1, {name: row[these] for name, row in rows.items()})
                counted = step + 1
            if due:
                figures = {name: row[step - chunk.first] for name, row in rows.items()}
                lines.append((step + 1, cell.ledger.line(step + 1, figures, since, rate)))
        if bad < end:
            try:
                cell.ledger.add(bad + 1, {name: row[bad - chunk.first] for name, row in rows.items()})
            except UserError as error:
                fail(cell, error, self.say)
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

    def look(self, done: int, cells: Sequence[Cell]) -> None:
        """Keeps the examples of cells that were validated."""
        teams = {cell: team for team in self.teams for cell in team.cells}
        due = [cell for cell in cells if done < cell.last]
        guarded(due, lambda cell: self.watched[cell].look(done, teams[cell].state(cell).params), self.say)

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

    def show(self, lines: Mapping[Cell, Sequence[Line]]) -> None:
        """A line of progress: the mean loss of the cells, and the tokens per second of all together."""
        last = [own[-1] for cell, own in lines.items() if own and cell.error is None]
        if last:
            figures = {"loss": float(np.mean([line["loss"] for _, line in last]))}
            figures["tokens_per_second"] = sum(line["tokens_per_second"] for _, line in last)
            self.progress.update(max(step for step, _ in last), f"{len(self.alive)} cells", figures)


class Chunk(NamedTuple):
    """Steps `first` to `done - 1` on their way: the metrics of each team."""

    first: int
    done: int
    found: list[tuple[Team, Any]]
