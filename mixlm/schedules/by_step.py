"""Schedules whose numbers are steps: constants, lines, pieces, and T5's decay."""

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from mixlm.errors import UserError
from mixlm.schedules.base import Step, in_float
from mixlm.schedules.scaled import Scaled, check_steps, scaled_to
from mixlm.values import check_number


@dataclass(frozen=True)
class Constant:
    """`value` at every step."""

    traced: ClassVar[tuple[str, ...]] = ("value",)
    value: float

    def __post_init__(self) -> None:
        check_number(self, "value")

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The value."""
        return jnp.asarray(self.value, jnp.float32)


@dataclass(frozen=True)
class Linear:
    """`start` until step `begin`, from there to `end` within `steps` steps (at once where that is 0), and `end` on.

    `steps` None is the rest of the run, which `over` fills in.
    """

    traced: ClassVar[tuple[str, ...]] = ("start", "end", "steps", "begin")
    start: float
    end: float
    steps: int | Scaled | None
    begin: int | Scaled = 0

    def __post_init__(self) -> None:
        check_number(self, "start")
        check_number(self, "end")
        if self.steps is not None:
            check_steps(self, "steps")
        check_steps(self, "begin")

    def over(self, train_steps: int) -> "Linear":
        """The same schedule for a run of `train_steps`; unchanged where all its numbers are given."""
        steps, begin = scaled_to((self.steps, self.begin), train_steps)
        return replace(self, steps=max(train_steps - begin, 0) if steps is None else steps, begin=begin)

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The value at `step`: start + (end - start) * (step - begin) / steps, the fraction clipped to [0, 1]."""
        if self.steps is None or isinstance(self.steps, Scaled) or isinstance(self.begin, Scaled):
            raise UserError("The schedule Linear does not know the run's length; set its steps.")
        late = in_float(step) - self.begin
        done = jnp.clip(jnp.where(self.steps == 0, late + 1.0, late / jnp.maximum(self.steps, 1)), 0.0, 1.0)
        # Both ends are met exactly, which start + (end - start) * done does not do in float32.
        return self.start * (1.0 - done) + self.end * done


@dataclass(frozen=True)
class Piecewise:
    """Constant pieces: `values[i]` from `boundaries[i]` on; the last boundary <= step wins.

    The boundaries rise strictly and the first is 0, so that every step has a value.
    """

    traced: ClassVar[tuple[str, ...]] = ("boundaries", "values")
    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        # gin writes lists where a hash needs tuples.
        for name in ("boundaries", "values"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        boundaries, values = self.boundaries, self.values
        if len(boundaries) != len(values):
            raise UserError(f"Piecewise has {len(boundaries)} boundaries and {len(values)} values; give one for each.")
        for constant in (*boundaries, *values):
            Constant(constant)
        if not all(isinstance(boundary, int) for boundary in boundaries):
            raise UserError(f"Piecewise.boundaries = {boundaries} must be whole steps.")
        if not boundaries or boundaries[0] != 0:
            raise UserError(f"Piecewise.boundaries = {boundaries} must begin with step 0.")
        if any(left >= right for left, right in itertools.pairwise(boundaries)):
            raise UserError(f"Piecewise.boundaries = {boundaries} must rise from one to the next.")

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The value of the piece that holds `step`."""
        piece = jnp.sum(jnp.asarray(self.boundaries, jnp.int32) <= jnp.asarray(step)) - 1
        return jnp.asarray(self.values, jnp.float32)[jnp.maximum(piece, 0)]


@dataclass(frozen=True)
class RsqrtDecay:
    """T5's `base / sqrt(max(step, warmup_steps))` (Raffel et al. 2020, section 3.1.2): flat first, then decaying."""

    traced: ClassVar[tuple[str, ...]] = ("base", "warmup_steps")
    base: float = 1.0
    warmup_steps: int = 10_000

    def __post_init__(self) -> None:
        check_number(self, "base", 0)
        check_steps(self, "warmup_steps", low=1)

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The value at `step`."""
        return self.base / jnp.sqrt(jnp.maximum(in_float(step), self.warmup_steps))
