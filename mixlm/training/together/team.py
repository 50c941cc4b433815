"""Teams: the cells that have one objective at a time, their states stacked over a leading axis."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mixlm.objectives.base import Objective
from mixlm.training import traced_hparams
from mixlm.training.together.cell import Cell
from mixlm.training.together.program import Programs


@dataclass(frozen=True)
class Segment:
    """Steps `first` to `end - 1`, in which no cell changes its objective; `teams` are the cells of each objective.

    Cells that ended before are in none. So the teams do not depend on where cells begin, and a resume has the same.
    """

    first: int
    end: int
    teams: tuple[tuple[Cell, ...], ...]

    def objective(self, team: Sequence[Cell]) -> Objective:
        """The objective of a team, with the numbers of its first cell."""
        return team[0].at(self.first)

    @property
    def active(self) -> list[tuple[Cell, ...]]:
        """The teams of which a cell has a step left in the segment."""
        return [team for team in self.teams if any(cell.begun < min(self.end, cell.last) for cell in team)]


def segments(cells: Sequence[Cell]) -> list[Segment]:
    """The segments of all cells' steps."""
    end = max(cell.last for cell in cells)
    starts = {stage.first for cell in cells for stage, _ in cell.recipe.stages.spans(cell.last)}
    bounds = sorted({0, end, *starts})
    found = []
    for first, after in itertools.pairwise(bounds):
        teams: dict[Any, list[Cell]] = {}
        for cell in cells:
            if first < cell.last:
                teams.setdefault(traced_hparams.hoist(cell.at(first))[0], []).append(cell)
        found.append(Segment(first, after, tuple(map(tuple, teams.values()))))
    return found


class Team:
    """Cells with one objective, and their stacked states.

    `walks` has the number of each cell's rows among the rows that are read.
    """

    def __init__(self, cells: Sequence[Cell], objective: Objective, first: int, programs: Programs, walks: Any):
        self.cells, self.objective, self._programs = tuple(cells), objective, programs
        recipes = [cell.recipe for cell in cells]
        self._walks = programs.integers([walks[id(cell.prepared.train_blocks)] for cell in cells])
        self._seeds = programs.integers([recipe.seed for recipe in recipes])
        self._ends = programs.integers([cell.last for cell in cells])
        self._numbers = programs.numbers(recipes, lambda recipe: recipe.stages.at(first).objective)
        self.states: Any = None

    def __len__(self) -> int:
        return len(self.cells)

    def advance(self, rows: Any, first: int, steps: int) -> Any:
        """Dispatches some steps; returns their metrics, which stay on the devices."""
        run = self._programs.steps(self.objective, len(self)).result()
        place = self._programs.whole(len(self))
        number = [jax.device_put(np.int32(value), place) for value in (first, steps)]
        self.states, metrics = run(
            self.states, self._walks, self._seeds, self._ends, self._numbers, jax.device_put(rows, place), *number
        )
        return metrics

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the metrics."""
        return self._programs.names(self.objective)

    def state(self, cell: Cell) -> Any:
        """The state of a cell."""
        return self._programs.state(self.states, self.cells.index(cell))

    def validate(self, due: Sequence[Cell], step: int) -> dict[Cell, dict[str, float]]:
        """`PreparedRun.validate` of the cells that are due."""
        found: dict[Cell, dict[str, float]] = {cell: {} for cell in due}
        validated = {cell: {traced_hparams.hoist(each)[0]: each for each in cell.recipe.validated} for cell in due}
        place, prepared = self._programs.whole(len(self)), due[0].prepared
        batches = {
            name: jax.device_put(np.stack([batch[name] for batch in prepared.validation_batches]), place)
            for name in prepared.validation_batches[0]
        }
        bands, number = (jax.device_put(np.asarray(x, np.int32), place) for x in (prepared.band_of, step))
        figures: dict[Any, dict[str, Any]] = {}
        for static in dict.fromkeys(static for own in validated.values() for static in own):
            # A cell that does not report the objective lends its state, and another cell's numbers.
            other = next(own[static] for own in validated.values() if static in own)
            objectives = [validated.get(cell, {}).get(static, other) for cell in self.cells]
            run = self._programs.validation(other, len(self)).result()
            numbers = self._programs.validation_numbers(objectives)
            terms = jax.device_get(run(self.states.params, self._seeds, numbers, batches, number, bands))
            figures[static] = _means(terms)
        for cell, own in validated.items():
            index = self.cells.index(cell)
            for static in own:
                found[cell] |= {f"validation/{name}": float(values[index]) for name, values in figures[static].items()}
        return found


def _means(terms: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """The mean of each term for each cell: totals and counts are added batch by batch, then divided."""
    found = {}
    for name, (totals, counts) in terms.items():
        total, count = (functools.reduce(np.add, column) for column in (totals, counts))
        found[name] = total / np.where(count > 0, count, np.float32(1))
    return found


def regrouped(teams: Sequence[Team], new: Sequence[Team], programs: Programs) -> None:
    """Gives new teams the states of their cells, from those of `teams`, or from the cells that have not begun."""
    if [team.cells for team in teams] == [team.cells for team in new]:
        for before, after in zip(teams, new):
            after.states = before.states
        return
    held = {cell: index for team in teams for index, cell in enumerate(team.cells)}
    hosts = {cell: host for team in teams for host in [jax.device_get(team.states)] for cell in team.cells}
    for team in new:
        parts = [
            jax.device_get(cell.state)
            if cell not in held
            else jax.tree.map(lambda leaf, cell=cell: leaf[held[cell]], hosts[cell])
            for cell in team.cells
        ]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
        team.states = jax.device_put(stacked, programs.cut(len(team)))
        for cell in team.cells:
            cell.state = None
