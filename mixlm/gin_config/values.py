"""Python values in the place of gin text: plain ones as they are, dataclass instances as scoped references."""

import dataclasses
import inspect
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

import gin
from mixlm.errors import UserError
from mixlm.gin_config.program import Binding, Program, Reference


def shortened(text: str, length: int = 200) -> str:
    """The beginning of a long text, so that a message stays a sentence."""
    return text if len(text) <= length else f"{text[:length]}..."


def by_macro(sentence: str) -> str:
    """A sentence that begins with "CLASS.FIELD = VALUE", with the macro that gives this field its value in their place.

    A macro may fill fields of several classes, of which the first that is built is no more at fault than the others.
    """
    found = re.match(r"(\w+\.\w+) = ", sentence)
    try:
        macro = re.fullmatch(r"%(\w+)", repr(gin.query_parameter(found[1]))) if found else None
    except ValueError:
        return sentence
    return sentence.replace(found[1], macro[1], 1) if found and macro else sentence


def as_gin(program: Program, value: Any, where: str) -> Any:
    """Returns `value` as a Program holds it: what gin's text can say, so that the run's config.gin rebuilds it.

    NumPy scalars become Python's, paths become text, dtypes their name. A dataclass instance (a schedule, an objective,
    a network) becomes a reference in a scope of its own, with its fields bound there. Raises UserError for anything
    else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {value!r} is not finite.")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {as_gin(program, key, where): as_gin(program, entry, where) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(as_gin(program, entry, where) for entry in value)
    if (dtype := _dtype(value)) is not None:
        return dtype.name
    if dataclasses.is_dataclass(value) and not inspect.isclass(value):
        return _reference(program, value, where)
    if inspect.isclass(value) or inspect.isfunction(value):
        _check_importable(value, where)
        return Reference((), program.target(value, value.__module__, value.__qualname__), called=False)
    raise UserError(
        f"{where}: give a number, text, None, a list, tuple or dict, or a dataclass instance, "
        f"not a value of type {type(value).__name__}."
    )


def _reference(program: Program, value: Any, where: str) -> Reference:
    """`@given_N/module.Class()`, with those fields bound in the scope that do not have their default anyway."""
    kind = type(value)
    _check_importable(kind, where)
    target = program.target(kind, kind.__module__, kind.__qualname__)
    scopes = {scope for scope, _ in program.bindings}
    scope = next(name for name in (f"given_{number}" for number in range(1, len(scopes) + 2)) if name not in scopes)
    bound = program.bindings.setdefault((scope, target), {})
    unscoped = program.bindings.get(("", target), {})
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if field.init and (field.name in unscoped or not _is_default(field, held)):
            bound[field.name] = Binding(as_gin(program, held, f"{where}.{field.name}"), where)
    return Reference((scope,), target, called=True)


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return value is field.default or (type(value) is type(field.default) and bool(value == field.default))
    return field.default_factory is not dataclasses.MISSING and bool(value == field.default_factory())


def _check_importable(value: Any, where: str) -> None:
    """Raises UserError for a class or function that no import reaches, since config.gin could not name it."""
    if "<" in value.__qualname__:
        raise UserError(f"{where}: gin cannot import {value.__qualname__!r}; define it at the top of a module.")


def _dtype(value: Any) -> np.dtype[Any] | None:
    """The dtype that `value` is, as NumPy (np.float32, np.dtype) or JAX (jnp.bfloat16) write it; else None."""
    if isinstance(value, np.dtype):
        return value
    if not inspect.isclass(value):
        return None
    if issubclass(value, np.generic):
        return np.dtype(value)
    dtype = getattr(value, "dtype", None)
    return dtype if isinstance(dtype, np.dtype) else None
