"""Curricula: stages of objectives by step. A stage is a static value, so a switch is another compiled step."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mixlm.errors import UserError, nearest
from mixlm.objectives.base import Objective
from mixlm.schedules import Scaled, check_steps


@dataclass(frozen=True)
class Stage:
    """From step `start` on (steps count from 0), `objective` is trained."""

    start: int | Scaled
    objective: Objective

    def __post_init__(self) -> None:
        check_steps(self, "start")

    @property
    def first(self) -> int:
        """The step, in a run that is long enough for it."""
        return self.start.number if isinstance(self.start, Scaled) else self.start


@dataclass(frozen=True)
class Curriculum:
    """Stages by ascending start, the first at 0."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        starts = [stage.first for stage in self.stages]
        if not starts or starts[0] != 0:
            raise UserError(f"A curriculum's first stage must start at step 0, got starts {starts}.")
        if starts != sorted(starts):
            raise UserError(f"A curriculum's stages must start in ascending order, got starts {starts}.")

    def at(self, step: int) -> Stage:
        """The last stage with `start <= step`."""
        return [stage for stage in self.stages if stage.first <= step][-1]

    def spans(self, train_steps: int) -> list[tuple[Stage, int]]:
        """The stages that are trained at all, each with its number of steps.

        Raises UserError when a stage starts past the last step.
        """
        starts = [stage.first for stage in self.stages]
        for stage in self.stages:
            if stage.first > train_steps:
                raise UserError(
                    f"The stage {stage.objective.name!r} starts at step {stage.first} (TAU), past the last of "
                    f"{train_steps} steps (TRAIN_STEPS)."
                )
        ends = [*starts[1:], train_steps]
        return [(stage, end - stage.first) for stage, end in zip(self.stages, ends) if end > stage.first]

    @property
    def distinct(self) -> tuple[Objective, ...]:
        """The distinct objectives, in order of their first stage."""
        return tuple(dict.fromkeys(stage.objective for stage in self.stages))


@dataclass(frozen=True)
class Blocks:
    """Blocks of epochs, such as `"4 clm, 16 mlm, 4 clm"` (AntLM): a number of epochs, then the name of its objective.

    Raises UserError for a block that cannot be read and for a name that `objectives` does not have.
    """

    schedule: str
    objectives: Mapping[str, Objective]

    def __post_init__(self) -> None:
        _ = self.blocks

    @property
    def distinct(self) -> tuple[Objective, ...]:
        """The distinct objectives that can be named."""
        return tuple(dict.fromkeys(self.objectives.values()))

    @property
    def blocks(self) -> list[tuple[float, str]]:
        """The epochs and the name of each block."""
        found = []
        for block in self.schedule.split(","):
            match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s+(\S+)\s*", block)
            if match is None or float(match[1]) == 0:
                raise UserError(
                    f"SCHEDULE = {self.schedule!r}: {block.strip()!r} is no number of epochs and the name of an "
                    f"objective, such as '4 {next(iter(self.objectives))}'."
                )
            if match[2] not in self.objectives:
                raise UserError(
                    f"SCHEDULE = {self.schedule!r} names {match[2]!r}, and the objectives are "
                    f"{sorted(self.objectives)}.{nearest(match[2], self.objectives)}"
                )
            found.append((float(match[1]), match[2]))
        return found

    @property
    def epochs(self) -> float:
        """All epochs together."""
        return sum(epochs for epochs, _ in self.blocks)

    def curriculum(self, epoch_steps: float) -> Curriculum:
        """The stages, where an epoch takes `epoch_steps` steps, not necessarily a whole number of them."""
        ends = itertools.accumulate(epochs for epochs, _ in self.blocks)
        starts = [0, *(round(end * epoch_steps) for end in ends)]
        return Curriculum(tuple(Stage(start, self.objectives[name]) for start, (_, name) in zip(starts, self.blocks)))
