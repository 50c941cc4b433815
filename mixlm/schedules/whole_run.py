"""Schedules that span a run: a warm-up, and a decay to its last step."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from mixlm.errors import UserError
from mixlm.schedules.base import Number, Step, in_float
from mixlm.schedules.scaled import Scaled, check_steps, scaled_to
from mixlm.values import check_number


@dataclass(frozen=True)
class _WholeRun:
    """The first fields of schedules that span a run; `total_steps` None is the run's length, which `over` fills in.

    `final` names the fraction of the run that comes last.
    """

    traced: ClassVar[tuple[str, ...]] = ("peak", "total_steps", "warmup_steps", "final_fraction", "warmup_fraction")
    final: ClassVar[str]
    peak: float
    total_steps: int | None = None
    warmup_steps: int | Scaled = 0

    def over(self, train_steps: int) -> "_WholeRun":
        """The same schedule for a run of `train_steps`; unchanged where all its numbers are given."""
        fitting = scaled_to(self, train_steps)
        return replace(fitting, total_steps=train_steps) if self.total_steps is None else fitting

    @property
    def _length(self) -> Number:
        if self.total_steps is None:
            raise UserError(f"The schedule {type(self).__name__} does not know the run's length; set its total_steps.")
        return self.total_steps


def _check_whole_run(schedule: "Cosine | WSD") -> None:
    """Checks the fields that both have."""
    name, last = type(schedule).__name__, schedule.final
    check_number(schedule, "peak", 0)
    for number in ("warmup_fraction", "final_fraction", last):
        check_number(schedule, number, 0, 1)
    check_steps(schedule, "warmup_steps")
    if schedule.warmup_steps and schedule.warmup_fraction:
        raise UserError(f"{name} has both warmup_steps and warmup_fraction; give one of them.")
    if schedule.total_steps is None:
        return
    check_steps(schedule, "total_steps", low=1)
    if isinstance(schedule.warmup_steps, Scaled):
        return
    warmup, total, fraction = _warmup(schedule), schedule.total_steps, getattr(schedule, last)
    if warmup > total:
        raise UserError(f"{name}.warmup_steps = {warmup:g} is longer than the whole run (total_steps = {total}).")
    # A step of slack, for a fraction that is not a whole number of steps.
    if warmup > total * (1 - fraction) + 1:
        raise UserError(
            f"{name}.warmup_steps = {warmup:g} runs into the decay, which takes the last {fraction:g} of {total} steps."
        )


def _warmup(schedule: "Cosine | WSD") -> Number:
    if isinstance(schedule.warmup_steps, Scaled):
        raise UserError(
            f"The schedule {type(schedule).__name__} does not know how long its warm-up is: call its over()."
        )
    # One of them is 0.
    return schedule.warmup_steps + schedule.warmup_fraction * schedule._length


@dataclass(frozen=True)
class Cosine(_WholeRun):
    """Linear warm-up from 0 to `peak`, then half a cosine to `final_fraction * peak`, then a line to 0.

    The cosine (Loshchilov & Hutter 2017 without restarts) ends where the last `cooldown_fraction` of the run begins;
    by default there is none, and the values are those of `optax.warmup_cosine_decay_schedule`. GPT-BERT: a warm-up
    and a cooldown of 0.016 each, a final fraction of 0.1. The warm-up is `warmup_steps` long, or `warmup_fraction` of
    the run. `total_steps` None is the whole run, which `over` fills in.
    """

    final: ClassVar[str] = "cooldown_fraction"
    traced: ClassVar[tuple[str, ...]] = (*_WholeRun.traced, final)
    final_fraction: float = 0.0
    warmup_fraction: float = 0.0
    cooldown_fraction: float = 0.0

    def __post_init__(self) -> None:
        _check_whole_run(self)

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The value at `step`; the last value stays after `total_steps`, and UserError where that is unknown."""
        total, warmup = self._length, _warmup(self)
        cooldown = total * self.cooldown_fraction
        done = jnp.clip((in_float(step) - warmup) / jnp.maximum(total - warmup - cooldown, 1), 0.0, 1.0)
        decay = self.final_fraction + (1.0 - self.final_fraction) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        decay = decay * jnp.clip(_divided(total - in_float(step), cooldown), 0.0, 1.0)
        return self.peak * _ramp(step, warmup) * decay


@dataclass(frozen=True)
class CosineWithCooldown(Cosine):
    """The schedule of the releases of LTG-BERT and GPT-BERT: a cosine over the whole run, and a cooldown that cuts it.

    A warm-up from 0 to `peak`, then half a cosine that would reach `final_fraction * peak` at `total_steps`; over the
    last `cooldown_fraction` of the run a line from there to 0 takes its place, so that the rate drops a little where it
    begins. Warm-up and cooldown are whole steps, their fractions of the run rounded down. GPT-BERT: both 0.016, a final
    fraction of 0.1; LTG-BERT has no cooldown. `total_steps` None is the whole run, which `over` fills in.
    """

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The value at `step`; the last value stays after `total_steps`, and UserError where that is unknown."""
        total, warmup = self._length, jnp.floor(_warmup(self))
        cooldown = jnp.floor(total * self.cooldown_fraction)
        done = jnp.clip((in_float(step) - warmup) / jnp.maximum(total - warmup, 1), 0.0, 1.0)
        cosine = self.final_fraction + (1.0 - self.final_fraction) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        left = jnp.maximum(total - in_float(step), 0.0)
        line = self.final_fraction * left / jnp.maximum(cooldown, 1)
        return self.peak * _ramp(step, warmup) * jnp.where((cooldown > 0) & (left <= cooldown), line, cosine)


@dataclass(frozen=True)
class WSD(_WholeRun):
    """Warm-up, stable, decay: a trapezoid that falls linearly over the last `decay_fraction` of the run.

    It reaches `final_fraction * peak` at `total_steps`. The Dual paper trains with no warm-up and a quarter of decay.
    The warm-up is `warmup_steps` long, or `warmup_fraction` of the run. `total_steps` None is the whole run, which
    `over` tells.
    """

    final: ClassVar[str] = "decay_fraction"
    traced: ClassVar[tuple[str, ...]] = (*_WholeRun.traced, final)
    decay_fraction: float = 0.25
    final_fraction: float = 0.0
    warmup_fraction: float = 0.0

    def __post_init__(self) -> None:
        _check_whole_run(self)

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The value at `step`; the last value stays after `total_steps`, and UserError where that is unknown."""
        total = self._length
        left = jnp.maximum(total - in_float(step), 0.0)
        height = jnp.minimum(_divided(left, total * self.decay_fraction), 1.0)
        decay = self.final_fraction + (1.0 - self.final_fraction) * height
        return self.peak * _ramp(step, _warmup(self)) * decay


def _ramp(step: Step, warmup_steps: Number) -> Float[Array, ""]:
    """0 at step 0, 1 from `warmup_steps` on (everywhere when that is 0), linear between."""
    return jnp.minimum(_divided(in_float(step), warmup_steps), 1.0)


def _divided(value: Float[Array, ""], by: Number) -> Float[Array, ""]:
    """`value / by`, 1 where `by` is 0."""
    return jnp.where(by == 0, 1.0, value / jnp.where(by == 0, 1.0, by))
