"""Schedules, step -> value: learning rates, objective weights, data rates; frozen and hashable, so static under jit.

The fields named in `traced` may be arguments of the compiled step instead: no schedule branches on them in Python.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mixlm.errors import UserError

Step = int | Int[Array, ""]
Number = float | Float[Array, ""]  # the latter where a schedule's numbers are traced
LARGEST = 3.4028235e38  # of float32
MOST_STEPS = 2**31 - 1  # a step is an int32 on the devices


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


@dataclass(frozen=True)
class Scaled:
    """A number of steps in a run of `of` or more; in a shorter one in proportion, to the nearest whole number.

    A recipe gives warm-ups and switches of stages so, and one override of its length is enough to try it. It prints as
    `number`, which is what runs before 0.6.0 recorded.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        check_steps(self, "number")
        check_steps(self, "of", low=1)
        if self.number > self.of:
            raise UserError(f"Scaled.number = {self.number} must be at most Scaled.of = {self.of}.")

    def __repr__(self) -> str:
        return repr(self.number)

    def over(self, length: int) -> int:
        """The number for a run of `length`."""
        return min(self.number, (2 * self.number * length + self.of) // (2 * self.of))


def over(value: Any, train_steps: int) -> Any:
    """`value` with the run's length filled in wherever a schedule needs it: in dataclasses, tuples and mappings."""
    if isinstance(value, SpansRun | Scaled):
        return value.over(train_steps)
    return _rebuilt(value, lambda part: over(part, train_steps))


def scaled_to(value: Any, train_steps: int) -> Any:
    """`value` with a number in the place of every `Scaled` in it; what else depends on the run's length stays."""
    if isinstance(value, Scaled):
        return value.over(train_steps)
    return _rebuilt(value, lambda part: scaled_to(part, train_steps))


def scaled_down(value: Any, train_steps: int) -> Iterator[str]:
    """Says of each `Scaled` in `value` that a run of `train_steps` is too short for: "Stage.start 300 -> 2"."""
    for name, part in _parts(value).items():
        if isinstance(part, Scaled):
            if (number := part.over(train_steps)) != part.number:
                yield f"{type(value).__name__}.{name} {part.number} -> {number}"
        else:
            yield from scaled_down(part, train_steps)


def _parts(value: Any) -> dict[Any, Any]:
    """The entries of a dataclass, tuple or mapping; {} for anything else."""
    if isinstance(value, tuple):
        return dict(enumerate(value))
    if isinstance(value, Mapping):
        return dict(value)
    if not is_dataclass(value) or isinstance(value, type):
        return {}
    return {each.name: getattr(value, each.name) for each in fields(value) if each.init}


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with each of its parts changed; itself where none is."""
    parts = _parts(value)
    changed = {name: new for name, part in parts.items() if (new := change(part)) != part}
    if not changed:
        return value
    if isinstance(value, tuple):
        return tuple((parts | changed).values())
    return parts | changed if isinstance(value, Mapping) else replace(value, **changed)


def added(default: Any, repr: bool = False) -> Any:
    """A field that runs of earlier versions did not have: part of a run's identity where it differs from its default.

    It is no part of the repr of the value, of which the identity of those runs is made; `Recipe.identity` names it.
    """
    return field(default=default, repr=repr, metadata={"identity": "unless default"})


def check_number(owner: object, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Raises UserError unless field `name` of `owner` is a finite number in [low, high]."""
    value: Any = getattr(owner, name)
    where = f"{type(owner).__name__}.{name} = {value!r}"
    # What float32 does not hold is infinite on the devices; a comparison with nan is false.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise UserError(f"{where} must be a finite number.")
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise UserError(f"{where} must be {bounds}.")


def check_whole(owner: object, name: str, low: int, of: str = "") -> None:
    """Raises UserError unless field `name` of `owner` is a whole number from `low` on that an int32 holds."""
    check_number(owner, name, low)
    value, where = getattr(owner, name), f"{type(owner).__name__}.{name} = {getattr(owner, name)!r}"
    if not isinstance(value, int):
        raise UserError(f"{where} must be a whole number{of}.")
    if value > MOST_STEPS:
        raise UserError(f"{where} must be at most 2^31 - 1.")


def check_steps(owner: object, name: str, low: int = 0) -> None:
    """Raises UserError unless field `name` of `owner` is a whole number of steps, at least `low`, or is `Scaled`."""
    if isinstance(getattr(owner, name), Scaled):
        return
    check_whole(owner, name, low, " of steps")


def _float(step: Step) -> Float[Array, ""]:
    return jnp.asarray(step).astype(jnp.float32)


def _ramp(step: Step, warmup_steps: Number) -> Float[Array, ""]:
    """0 at step 0, 1 from `warmup_steps` on (everywhere when that is 0), linear between."""
    return jnp.minimum(_divided(_float(step), warmup_steps), 1.0)


def _divided(value: Float[Array, ""], by: Number) -> Float[Array, ""]:
    """`value / by`, 1 where `by` is 0."""
    return jnp.where(by == 0, 1.0, value / jnp.where(by == 0, 1.0, by))


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
        late = _float(step) - self.begin
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
        return self.base / jnp.sqrt(jnp.maximum(_float(step), self.warmup_steps))


@dataclass(frozen=True)
class _WholeRun:
    """The first fields of schedules that span a run; `total_steps` None is the run's length, which `over` fills in."""

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


def _check_whole_run(schedule: "Cosine | CosineWithCooldown | WSD", last: str) -> None:
    """Checks the fields that both have; `last` names the fraction of the run that comes last."""
    name = type(schedule).__name__
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


def _warmup(schedule: "Cosine | CosineWithCooldown | WSD") -> Number:
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

    traced: ClassVar[tuple[str, ...]] = (
        "peak",
        "total_steps",
        "warmup_steps",
        "final_fraction",
        "warmup_fraction",
        "cooldown_fraction",
    )
    final_fraction: float = 0.0
    warmup_fraction: float = 0.0
    cooldown_fraction: float = 0.0

    def __post_init__(self) -> None:
        _check_whole_run(self, "cooldown_fraction")

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The value at `step`; the last value stays after `total_steps`, and UserError where that is unknown."""
        total, warmup = self._length, _warmup(self)
        cooldown = total * self.cooldown_fraction
        done = jnp.clip((_float(step) - warmup) / jnp.maximum(total - warmup - cooldown, 1), 0.0, 1.0)
        decay = self.final_fraction + (1.0 - self.final_fraction) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        decay = decay * jnp.clip(_divided(total - _float(step), cooldown), 0.0, 1.0)
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
        done = jnp.clip((_float(step) - warmup) / jnp.maximum(total - warmup, 1), 0.0, 1.0)
        cosine = self.final_fraction + (1.0 - self.final_fraction) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        left = jnp.maximum(total - _float(step), 0.0)
        line = self.final_fraction * left / jnp.maximum(cooldown, 1)
        return self.peak * _ramp(step, warmup) * jnp.where((cooldown > 0) & (left <= cooldown), line, cosine)


@dataclass(frozen=True)
class WSD(_WholeRun):
    """Warm-up, stable, decay: a trapezoid that falls linearly over the last `decay_fraction` of the run.

    It reaches `final_fraction * peak` at `total_steps`. The Dual paper trains with no warm-up and a quarter of decay.
    The warm-up is `warmup_steps` long, or `warmup_fraction` of the run. `total_steps` None is the whole run, which
    `over` tells.
    """

    traced: ClassVar[tuple[str, ...]] = (
        "peak",
        "total_steps",
        "warmup_steps",
        "decay_fraction",
        "final_fraction",
        "warmup_fraction",
    )
    decay_fraction: float = 0.25
    final_fraction: float = 0.0
    warmup_fraction: float = 0.0

    def __post_init__(self) -> None:
        _check_whole_run(self, "decay_fraction")

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The value at `step`; the last value stays after `total_steps`, and UserError where that is unknown."""
        total = self._length
        left = jnp.maximum(total - _float(step), 0.0)
        height = jnp.minimum(_divided(left, total * self.decay_fraction), 1.0)
        decay = self.final_fraction + (1.0 - self.final_fraction) * height
        return self.peak * _ramp(step, _warmup(self)) * decay
