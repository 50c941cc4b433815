"""Forks: cells that share their first steps with another one begin from its checkpoint, with its optimizer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixlm.errors import UserError, nearest
from mixlm.recipe import Recipe
from mixlm.schedules import over
from mixlm.sweeps.cells import Cell, stem_name
from mixlm.sweeps.study import Grid

MOST_KEPT = 64  # Ours: checkpoints that a stem keeps for its forks.
POINTS = 64  # Ours: steps at which two schedules are compared.


@dataclass(frozen=True)
class Fork:
    """The cell whose run is the stem, and the step at which another leaves it; None takes its last parameters alone."""

    stem: str
    step: int | None

    def begin(self, folder: Any) -> dict[str, Any]:
        """The macros with which a cell begins at the stem's run in `folder`."""
        if self.step is None:
            return {"INIT_FROM": str(folder)}
        return {"INIT_FROM": f"{folder}@{self.step}", "INIT_OPTIMIZER": True}


def forks_of(grid: Grid, cells: Sequence[Cell]) -> dict[str, Fork]:
    """The forks by cell: of cells that differ in the axis `grid.forks` alone, the one that leaves last is the stem.

    Of several the shortest is, as it may end at the fork. A cell that leaves at step 0 has no stem.
    """
    if grid.forks is None:
        return {}
    if grid.forks not in grid.axes:
        raise UserError(f"Grid.forks = {grid.forks!r} is no axis.{nearest(grid.forks, grid.axes)}")
    found: dict[str, Fork] = {}
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_rest(cell, grid.forks), []).append(cell)
    for group in groups.values():
        members = sorted(group, key=lambda cell: (-_step(cell, grid), cell.values.get("TRAIN_STEPS") or 0))
        stem, *others = members
        found |= {cell.name: Fork(stem.name, _step(cell, grid)) for cell in others if _step(cell, grid) > 0}
    return found


def stem_forks(grid: Grid, cells: Sequence[Cell]) -> dict[str, Fork]:
    """The stem that each cell begins from by its INIT_FROM, which is a name of `grid.stems`."""
    found = {}
    for cell in cells:
        name = cell.values.get("INIT_FROM")
        if grid.stems.get(str(name), {}).get(cell.arm):
            found[cell.name] = Fork(stem_name(str(name), cell.arm), None)
    return found


def _rest(cell: Cell, axis: str | None) -> str:
    return repr((cell.arm, cell.seed, sorted((name, repr(value)) for name, value in cell.axes.items() if name != axis)))


def _step(cell: Cell, grid: Grid) -> int:
    macro = grid.fork_at or grid.forks
    step = cell.values.get(str(macro))
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise UserError(f"Cell {cell.name}: a fork is at a number of steps, and {macro} is {step!r}.")
    return step


def stem_values(forks: Mapping[str, Fork], name: str) -> dict[str, int]:
    """The settings of a stem by which its checkpoints at the steps of its forks are made and stay."""
    steps = [fork.step for fork in forks.values() if fork.stem == name and fork.step is not None]
    if not steps:
        return {}
    period = math.gcd(*steps)
    if max(steps) // period > MOST_KEPT:
        raise UserError(
            f"Cell {name} would keep a checkpoint every {period} steps for its forks at {', '.join(map(str, steps))}: "
            f"give them steps with a larger common divisor."
        )
    return {"CHECKPOINT_PERIOD": period, "KEEP_PERIOD": period}


def check_forks(forks: Mapping[str, Fork], recipes: Mapping[str, Recipe]) -> None:
    """Raises UserError where a cell's first steps are not those of its stem: another objective, rate or network."""
    for name, fork in forks.items():
        if fork.step is None:
            continue  # what does not fit is said as of any other INIT_FROM
        mine, stem = recipes[name], recipes[fork.stem]
        differing = [
            part
            for part in ("networks", "tokens", "dataset", "seed", "batch_size", "lengths", "microbatches")
            if repr(getattr(mine, part)) != repr(getattr(stem, part))
        ]
        if mine.train_steps is None or stem.train_steps is None:
            raise UserError(f"Cell {name} is a fork, and its length is not known in steps: give TRAIN_STEPS.")
        if mine.optimizer.rule != stem.optimizer.rule or mine.optimizer.clip_norm != stem.optimizer.clip_norm:
            differing.append("optimizer")
        if _rates(mine, fork.step) != _rates(stem, fork.step):
            differing.append("learning rate, which depends on the length of the run")
        if _objectives(mine, fork.step) != _objectives(stem, fork.step):
            differing.append("objective")
        if differing:
            raise UserError(
                f"Cell {name} cannot leave cell {fork.stem} at step {fork.step}: until then they differ in "
                f"{', '.join(differing)}."
            )


def _rates(recipe: Recipe, until: int) -> list[float]:
    rate: Any = over(recipe.optimizer.learning_rate, recipe.steps)
    return [float(rate(step)) for step in sorted({until * point // POINTS for point in range(POINTS)})]


def _objectives(recipe: Recipe, until: int) -> list[Any]:
    return [
        (max(stage.first, 0), stage.objective) for stage, _ in recipe.stages.spans(recipe.steps) if stage.first < until
    ]
