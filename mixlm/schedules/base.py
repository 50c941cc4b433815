"""A schedule: a value for every step."""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Step = int | Int[Array, ""]
Number = float | Float[Array, ""]  # the latter where a schedule's numbers are traced


@runtime_checkable
class Schedule(Protocol):
    """A value for every step, in float32; the step is a Python int or a traced int32."""

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The value at `step`."""
        ...


@runtime_checkable
class SpansRun(Schedule, Protocol):
    """A schedule that depends on the length of the run."""

    def over(self, train_steps: int) -> Schedule:
        """The schedule for a run of `train_steps`; itself where its length is given."""
        ...


def in_float(step: Step) -> Float[Array, ""]:
    """The step in float32."""
    return jnp.asarray(step).astype(jnp.float32)
