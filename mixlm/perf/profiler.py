"""A trace of some steps: what the devices and the host did, for TensorBoard's profile plugin or Perfetto."""

import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlm.errors import UserError


@dataclass(frozen=True)
class Profile:
    """The steps to trace, from `start` to `stop` with both of them, counted from 1 as in a run's record."""

    start: int
    stop: int

    @classmethod
    def of(cls, text: str) -> "Profile":
        """Reads `START:STOP`; UserError where that is no run of steps."""
        found = re.fullmatch(r"(\d+):(\d+)", text.strip())
        if found is None:
            raise UserError(f"--profile={text} must be the first and the last step to trace, such as --profile=11:13.")
        asked = cls(int(found[1]), int(found[2]))
        if not 1 <= asked.start <= asked.stop:
            raise UserError(
                f"--profile={asked} is no run of steps: they count from 1, and the last does not come before the first."
            )
        return asked

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"

    def check(self, done: int, steps: int) -> None:
        """Raises UserError where a run that goes on after step `done` to step `steps` does not take these steps."""
        if self.start <= done:
            raise UserError(f"--profile={self} begins at a step that is done: the run stands after step {done}.")
        if self.stop > steps:
            raise UserError(f"--profile={self} goes past the last of {steps} steps (TRAIN_STEPS).")


class Tracer:
    """Writes the trace of a `profile`, if there is one, into `folder` (plugins/profile/TIME/...)."""

    def __init__(self, profile: Profile | None, folder: Path):
        self._profile, self._folder = profile, folder
        self._running = False

    def begin(self, step: int, state: Any) -> None:
        """Begins before the first step of the trace, when what came before it is done; `step` counts from 0."""
        if self._profile is None or step + 1 != self._profile.start:
            return
        import jax

        jax.block_until_ready(state)
        options = jax.profiler.ProfileOptions()
        # Each Python call would be in the trace, and cost more than the step that is looked at.
        options.python_tracer_level = 0
        jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
        self._running = True

    def step(self, step: int) -> Any:
        """The context of a step, by which TensorBoard tells the steps apart."""
        if not self._running:
            return nullcontext()
        import jax

        return jax.profiler.StepTraceAnnotation("train", step_num=step + 1)

    def end(self, step: int, metrics: Any) -> None:
        """Ends after the last step of the trace, when it is done."""
        if self._running and self._profile is not None and step + 1 == self._profile.stop:
            import jax

            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Writes what was traced, where the run ends before the trace does."""
        if self._running:
            import jax

            self._running = False
            jax.profiler.stop_trace()
