"""Which objective is in force at which step: stages are values, the switch is a change of a static argument."""

from dataclasses import dataclass

from mixlm.errors import UserError
from mixlm.objectives.base import Objective


@dataclass(frozen=True)
class Stage:
    """From step `start` on (steps count from 0), `objective` is trained."""

    start: int
    objective: Objective


@dataclass(frozen=True)
class Curriculum:
    """Stages by ascending start, the first at 0."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        starts = [stage.start for stage in self.stages]
        if not starts or starts[0] != 0:
            raise UserError(f"A curriculum's first stage must start at step 0, got starts {starts}.")
        if starts != sorted(starts):
            raise UserError(f"A curriculum's stages must start in ascending order, got starts {starts}.")

    def at(self, step: int) -> Stage:
        """The last stage with `start <= step`."""
        return [stage for stage in self.stages if stage.start <= step][-1]

    def spans(self, train_steps: int) -> list[tuple[Stage, int]]:
        """The stages that are trained at all, each with its number of steps.

        Raises UserError when a stage starts past the last step.
        """
        starts = [stage.start for stage in self.stages]
        for stage in self.stages:
            if stage.start > train_steps:
                raise UserError(
                    f"The stage {stage.objective.name!r} starts at step {stage.start} (TAU), past the last of "
                    f"{train_steps} steps (TRAIN_STEPS)."
                )
        ends = [*starts[1:], train_steps]
        return [(stage, end - stage.start) for stage, end in zip(self.stages, ends) if end > stage.start]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The distinct objectives, in order of their first stage."""
        return tuple(dict.fromkeys(stage.objective for stage in self.stages))
