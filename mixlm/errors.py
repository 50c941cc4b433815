"""Exceptions that end a command, with exit codes; the nearest known name for a wrong one; kinds of values."""

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Iterable
from functools import cache
from types import FunctionType, UnionType
from typing import Any, Protocol

# Exit codes. UNFINISHED is EX_TEMPFAIL of sysexits.h: the run is not over and the same command goes on with it, so a
# scheduler may start it again.
MISTAKE, UNFINISHED = 2, 75
_MISSING = object()


class UserError(ValueError):
    """A mistake in what the user asked for; its message is one sentence that names the thing and the way out."""


class Stopped(KeyboardInterrupt):
    """A signal that came before the end of a run, by its name; `outcome` tells what is kept.

    With `everywhere`, all processes of the run have stopped after the same step, and saved it.
    """

    code = UNFINISHED

    def __init__(self, name: str, outcome: str, everywhere: bool = False):
        super().__init__(f"{name} came: {outcome}; the same command goes on from there.")
        self.name, self.outcome, self.everywhere = name, outcome, everywhere


class NotHere(UserError):
    """A text or a vocabulary that was not given or is not on this machine; a run can be explained without it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'X'?" for the known name closest to `name` but not `name` itself, or "" without one."""
    candidates = {known_name.lower(): known_name for known_name in known if known_name != name}
    close = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.6)
    return f" Did you mean {candidates[close[0]]!r}?" if close else ""


def check_kind(where: str, value: Any, kind: type) -> None:
    """Raises UserError unless `value` is an instance of the class `kind`, or of a class that meets this protocol."""
    if isinstance(value, type):
        raise UserError(f"{where} is the class {value.__name__}: make an instance of it, {value.__name__}(...).")
    # A function is no more than its call; what it takes is asked where it is called.
    is_call = isinstance(value, FunctionType) and set(_members(kind)) == {"__call__"}
    if not (is_call or may_be(type(value), kind)):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise UserError(f"{where} must be {article} {kind.__name__}, got a value of type {type(value).__name__}.")


def may_be(made: type, kind: type) -> bool:
    """True where an instance of the class `made` is a `kind`.

    Where `kind` is a protocol, `made` must have its attributes, and its methods with as many arguments and of types
    that agree: `isinstance` compares the methods' names alone, and most protocols here have one `__call__`.
    """
    if not getattr(kind, "_is_protocol", False):
        return issubclass(made, kind)
    return all(_has(made, name, asked) for name, asked in _members(kind).items())


@cache
def _members(protocol: type) -> dict[str, Any]:
    """The methods and properties of a protocol as its classes define them, and None for each plain attribute."""
    found: dict[str, Any] = {}
    for base in reversed(protocol.__mro__):
        if base not in (Protocol, object) and getattr(base, "_is_protocol", False):
            found |= dict.fromkeys(inspect.get_annotations(base))
            found |= {name: each for name, each in vars(base).items() if name == "__call__" or name[0] != "_"}
    return found


def _has(made: type, name: str, asked: Any) -> bool:
    held = next((vars(base)[name] for base in made.__mro__ if name in vars(base)), _MISSING)
    if isinstance(asked, FunctionType):
        return _same_shape(held, asked) if isinstance(held, FunctionType) else callable(held)
    if held is not _MISSING or any(name in inspect.get_annotations(base) for base in made.__mro__):
        return not isinstance(held, FunctionType)
    # The __init__ of an ordinary class may set anything.
    return not dataclasses.is_dataclass(made) and made.__init__ is not object.__init__  # type: ignore[misc]


def _same_shape(held: FunctionType, asked: FunctionType) -> bool:
    """True where `held` can be called as `asked` is, and no annotation of one excludes that of the other."""
    mine, theirs = inspect.signature(held), inspect.signature(asked)
    try:
        bound = mine.bind(*theirs.parameters)
    except TypeError:
        return False
    pairs = [(mine.return_annotation, theirs.return_annotation)]
    for name, given in bound.arguments.items():
        if isinstance(given, str):  # no *args
            pairs.append((mine.parameters[name].annotation, theirs.parameters[given].annotation))
    return not any(_exclude(_kinds(one), _kinds(other)) for one, other in pairs)


def _exclude(some: frozenset[type], others: frozenset[type]) -> bool:
    related = [issubclass(one, other) or issubclass(other, one) for one in some for other in others]
    return bool(related) and not any(related)


@cache
def _kinds(annotation: Any) -> frozenset[type]:
    """The classes that an annotation allows, where numbers and arrays are one; none where it allows anything."""
    union = typing.get_origin(annotation) in (typing.Union, UnionType)
    kinds = [typing.get_origin(each) or each for each in (typing.get_args(annotation) if union else (annotation,))]
    if any(kind in (Any, object, inspect.Signature.empty) or not isinstance(kind, type) for kind in kinds):
        return frozenset()
    if any(getattr(kind, "_is_protocol", False) for kind in kinds):
        return frozenset()
    return frozenset(float if _is_number(kind) else kind for kind in kinds)


def _is_number(kind: type) -> bool:
    is_array = kind.__module__.partition(".")[0] in ("jax", "jaxlib", "numpy", "jaxtyping")
    return is_array or kind in (bool, int, float) or hasattr(kind, "array_type")
