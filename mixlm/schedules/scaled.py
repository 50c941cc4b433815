"""Numbers of steps that follow the length of the run, and schedules that do."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from mixlm.errors import UserError
from mixlm.schedules.base import SpansRun
from mixlm.values import check_whole


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


def check_steps(owner: object, name: str, low: int = 0) -> None:
    """Raises UserError unless field `name` of `owner` is a whole number of steps, at least `low`, or is `Scaled`."""
    if isinstance(getattr(owner, name), Scaled):
        return
    check_whole(owner, name, low, " of steps")
