"""Values that a recipe is made of, frozen dataclasses: numbers within bounds, and what says which run it is."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from typing import Any

from mixlm.errors import UserError

LARGEST = 3.4028235e38  # of float32
MOST_STEPS = 2**31 - 1  # a step is an int32 on the devices


def setting(default: Any) -> Any:
    """A field outside of a run's identity: duration, monitoring, or placement, but nothing that a step computes."""
    return field(default=default, metadata={"identity": False})


def added(default: Any, repr: bool = False) -> Any:
    """A field that runs of earlier versions did not have: part of a run's identity where it differs from its default.

    It is no part of the repr of the value, of which the identity of those runs is made; `identity` names it.
    """
    return field(default=default, repr=repr, metadata={"identity": "unless default"})


def identity(value: Any, **belongs: bool) -> dict[str, str]:
    """The fields of a dataclass that say which run it is, each as text: two starts of one run agree in all of them.

    A field's metadata say whether it belongs there, unless `belongs` does by its name. Fields that were `added` to the
    values below are named as CLASS.FIELD where any differs from its default.
    """
    parts = {each.name: each.metadata.get("identity", True) for each in fields(value)} | belongs
    for each in fields(value):
        if parts[each.name] == "unless default":
            parts[each.name] = getattr(value, each.name) != each.default
    held = {name: getattr(value, name) for name, belongs_there in parts.items() if belongs_there}
    return {name: _one_line(part) for name, part in held.items()} | _added_below(list(held.values()))


def _one_line(value: object) -> str:
    """A repr on one line; Linen prints its modules over many, with comments on lines of their own."""
    if isinstance(value, Mapping):
        value = dict(sorted(value.items()))
    return re.sub(r"\n\s*#[^\n]*|\s+", " ", repr(value)).strip()


def _added_below(parts: list[Any]) -> dict[str, str]:
    """The `added` fields inside of these values by CLASS.FIELD: their value, or all of them in order if they differ."""
    found: dict[str, list[Any]] = defaultdict(list)
    defaults = {}
    for owner, each in _dataclass_fields(parts):
        if each.metadata.get("identity") == "unless default":
            found[f"{type(owner).__name__}.{each.name}"].append(getattr(owner, each.name))
            defaults[f"{type(owner).__name__}.{each.name}"] = each.default
    return {
        name: _one_line(values[0] if all(value == values[0] for value in values) else tuple(values))
        for name, values in found.items()
        if any(value != defaults[name] for value in values)
    }


def _dataclass_fields(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (dataclass, field) inside of a value, in order."""
    if isinstance(value, Mapping):
        value = [part for _, part in sorted(value.items())]
    if isinstance(value, tuple | list):
        for part in value:
            yield from _dataclass_fields(part)
    elif is_dataclass(value) and not isinstance(value, type):
        # A Linen module's `parent` is where it hangs, no part of it.
        for each in (each for each in fields(value) if each.name != "parent"):
            yield value, each
            yield from _dataclass_fields(getattr(value, each.name, None))


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


def check_positive(name: str, value: object) -> None:
    """Raises UserError unless the macro `name` is a whole number above 0 that an int32 holds."""
    shown = name.upper() if name.islower() else name
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{shown} must be a whole number above 0, got {value!r}.")
    if value > MOST_STEPS:
        raise UserError(f"{shown} = {value} is beyond 2^31 - 1, the largest number of steps, rows or tokens.")
