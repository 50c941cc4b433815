"""Checks values from gin against the annotations of parameters, which gin itself ignores."""

import collections.abc
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from mixlm.errors import may_be
from mixlm.gin_config.program import Binding, Macro, Reference, contained, parameters

MISFIT = object()
_LITERALS = (bool, int, float, str, type(None))
_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    type(None): "None",
    None: "None",
}


def annotations(value: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotation of each parameter of a class or function, Any where it cannot be evaluated."""
    try:
        evaluated = typing.get_type_hints(value)
    except Exception:  # A name may exist for type checkers only, and evaluating it may raise anything.
        evaluated = {}
    written = {name: parameter.annotation for name, parameter in parameters(value).items()}
    found = {name: evaluated.get(name, annotation) for name, annotation in written.items()}
    return {name: Any if isinstance(hint, str) else hint for name, hint in found.items()}


def fitted(value: Any, hint: Any, macros: Mapping[str, Binding]) -> Any:
    """Returns `value` converted to the annotation `hint`, or MISFIT.

    A list becomes a tuple unless the field is annotated as a list, for the values must be hashable. A whole float
    becomes an int where an int is due (1e5 steps); an int may stand for a float, True for neither. What an annotation
    says nothing about (a dtype, what a function returns) passes.
    """
    if isinstance(value, Macro):
        if value.required or value.name not in macros:
            return MISFIT
        inner = macros[value.name].value
        result = fitted(inner, hint, macros)
        return value if _same(result, inner) else result
    hint = object if hint in (Any, inspect.Parameter.empty) else hint
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        results = [result for member in arguments if (result := fitted(value, member, macros)) is not MISFIT]
        return next((result for result in results if _same(result, value)), results[0] if results else MISFIT)
    if origin is typing.Annotated:
        return fitted(value, arguments[0], macros)
    if origin is typing.Literal:
        return value if any(_same(value, literal) for literal in arguments) else MISFIT
    if isinstance(value, Reference):
        return value if _may_be(value, origin) else MISFIT
    if origin in _WORDS:
        return _fitted_literal(value, origin)
    if isinstance(origin, type) and isinstance(value, _LITERALS):
        return value if origin is object or may_be(type(value), origin) else MISFIT
    return _fitted_parts(value, origin, arguments, macros)


def beyond_limits(value: Any) -> str | None:
    """Says which number in a value no array holds: what is not finite, or a whole one beyond 64 bits; None for none."""
    for part in contained(value):
        if isinstance(part, float) and not math.isfinite(part):
            return f"holds {part!r}, which is no finite number"
        if isinstance(part, int) and abs(part) >= 2**63:
            return f"holds {part if abs(part) < 10**30 else 'a number'} beyond 64 bits"
    return None


def described(hint: Any) -> str:
    """Returns an annotation in words, for error messages."""
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in _WORDS:
        return _WORDS[origin]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(described(member) for member in arguments)
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    if origin in (tuple, list) and arguments:
        entries = [described(entry) for entry in arguments if entry is not Ellipsis]
        return f"a {origin.__name__} of {'entries, each ' if Ellipsis in arguments else ''}{', '.join(entries)}"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a dict" + (f" of {described(arguments[0])} to {described(arguments[1])}" if arguments else "")
    if origin is collections.abc.Callable:
        return "a class or function (written @module.name)"
    if origin in (Sequence, Iterable, Collection):
        return "a list" + (f" of entries, each {described(arguments[0])}" if arguments else "")
    if origin in (Any, object):
        return "any value"
    name = getattr(origin, "__name__", str(origin))
    article = "an" if name[0] in "AEIOU" else "a"
    return f"{article} {name}" + (" (written @module.Class())" if _is_built(origin) else "")


def _is_built(kind: Any) -> bool:
    """True for classes that gin builds (dataclasses, protocols), which have no literal."""
    return dataclasses.is_dataclass(kind) or getattr(kind, "_is_protocol", False)


def _fitted_literal(value: Any, kind: Any) -> Any:
    if kind in (None, type(None)):
        return None if value is None else MISFIT
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    accepted = (int, float) if kind is float else kind
    return value if isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)) else MISFIT


def _fitted_parts(value: Any, origin: Any, arguments: tuple[Any, ...], macros: Mapping[str, Binding]) -> Any:
    """Fits the entries of a list, tuple or dict."""
    if not isinstance(value, (list, tuple, dict)):
        return value
    kind: Any = dict if isinstance(value, dict) else list if origin is list else tuple
    if inspect.isclass(origin) and not may_be(kind, origin):
        return MISFIT
    if isinstance(value, dict):
        key_hint, value_hint = arguments if len(arguments) == 2 else (Any, Any)
        fit = {fitted(key, key_hint, macros): fitted(entry, value_hint, macros) for key, entry in value.items()}
        return MISFIT if MISFIT in fit or any(entry is MISFIT for entry in fit.values()) else fit
    if (len(arguments) == 2 and arguments[1] is Ellipsis) or (origin is not tuple and len(arguments) == 1):
        arguments = arguments[:1] * len(value)
    entries = [fitted(entry, hint, macros) for entry, hint in zip(value, arguments or [Any] * len(value))]
    fits = len(entries) == len(value) and (not arguments or len(arguments) == len(value))
    return kind(entries) if fits and not any(entry is MISFIT for entry in entries) else MISFIT


def _may_be(reference: Reference, kind: Any) -> bool:
    """True where the value of a reference may be a `kind`; the result of a function is unknown."""
    made = reference.target.value
    if not inspect.isclass(made) or not inspect.isclass(kind):
        return kind not in (*_WORDS, typing.Literal) or reference.called
    if not reference.called:
        return kind in (object, type, collections.abc.Callable)
    return may_be(made, kind)


def _same(first: Any, second: Any) -> bool:
    """True where two values are equal and of the same types throughout: 2, 2.0 and True differ."""
    return type(first) is type(second) and repr(first) == repr(second)
