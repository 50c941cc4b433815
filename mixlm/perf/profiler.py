"""Profiler traces of devices and host over a range of steps, for TensorBoard's profile plugin or Perfetto."""

import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlm.errors import UserError
from mixlm.paths import refuse_link


@dataclass(frozen=True)
class Profile:
    """The steps to trace, `start` to `stop` inclusive, counted from 1 as in metrics.jsonl."""

    start: int
    stop: int

    @classmethod
    def of(cls, text: str) -> "Profile":
        """Parses `START:STOP`; UserError where that is no range of steps."""
        found = re.fullmatch(r"(\d+):(\d+)", text.strip())
        if found is None:
            raise UserError(f"--profile={text} must be the first and the last step to trace, such as --profile=11:13.")
        asked = cls(int(found[1]), int(found[2]))
        if not 1 <= asked.start <= asked.stop:
            raise UserError(
                f"--profile={asked} is no range of steps: they count from 1, and the last does not come before the "
                "first."
            )
        return asked

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"

    def check(self, done: int, steps: int) -> None:
        """Raises UserError unless a run from step `done` to step `steps` takes all of these steps."""
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
        """Starts the trace before its first step, once `state` is computed; `step` counts from 0."""
        if self._profile is None or step + 1 != self._profile.start:
            return
        import jax

        jax.block_until_ready(state)
        # The profiler names its folder by the second, so that a link could wait for it.
        for place in (self._folder, *self._folder.rglob("*")):
            refuse_link(place)
        options = jax.profiler.ProfileOptions()
        # Tracing every Python call would take longer than the step.
        options.python_tracer_level = 0
        jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
        self._running = True

    def step(self, step: int) -> Any:
        """A step's context manager, by which TensorBoard tells steps apart."""
        if not self._running:
            return nullcontext()
        import jax

        return jax.profiler.StepTraceAnnotation("train", step_num=step + 1)

    def end(self, step: int, metrics: Any) -> None:
        """Stops the trace after its last step, once `metrics` are computed."""
        if self._running and self._profile is not None and step + 1 == self._profile.stop:
            import jax

            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Writes an unfinished trace, where the run ends within it."""
        if self._running:
            import jax

            self._running = False
            jax.profiler.stop_trace()
