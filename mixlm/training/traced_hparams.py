"""Traced hyperparameters: numbers that are arguments of an executable, so that a sweep over them compiles once."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Placeholder:
    """Stands in an objective for the number that was hoisted out of it."""

    index: int


def hoist(objective: Any) -> tuple[Any, tuple[float, ...]]:
    """The objective with a `Placeholder` for every traced number, and those numbers in order.

    A dataclass names the fields whose numbers vary in `traced`, a class variable: numbers and tuples of them. Two
    objectives that differ in such numbers alone are equal without them.
    """
    numbers: list[float] = []

    def take(number: float) -> Placeholder:
        numbers.append(float(number))
        return Placeholder(len(numbers) - 1)

    return _walk(objective, take, (int, float), varies=False), tuple(numbers)


def bind(objective: Any, numbers: Sequence[Any]) -> Any:
    """The objective with its placeholders replaced by numbers, which may be tracers; no field is validated again."""
    return _walk(objective, lambda placeholder: numbers[placeholder.index], (Placeholder,), varies=True)


def _walk(value: Any, replace: Any, kinds: tuple[type, ...], varies: bool) -> Any:
    if varies and isinstance(value, kinds) and not isinstance(value, bool):
        return replace(value)
    if isinstance(value, tuple):
        return tuple(_walk(part, replace, kinds, varies) for part in value)
    if not is_dataclass(value) or isinstance(value, type | Placeholder):
        return value
    changed = {}
    for name, part, inner in _parts(value):
        new = _walk(part, replace, kinds, inner or kinds == (Placeholder,))
        if new is not part:
            changed[name] = new
    if not changed:
        return value
    twin = copy.copy(value)
    for name, new in changed.items():
        object.__setattr__(twin, name, new)
    return twin


def _parts(value: Any) -> Iterator[tuple[str, Any, bool]]:
    traced = getattr(type(value), "traced", ())
    for field in fields(value):
        yield field.name, getattr(value, field.name), field.name in traced
