"""The checker that jaxtyping's import hook puts on every function of mixlm: beartype, where an int is a float too."""

from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from typing import Any

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def _unless_placeholders(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` checked, but for calls with a bare object(): vmap of jax 0.7 builds pytrees whose leaves are those."""
    strict = _checked(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        placeholders = any(type(value) is object for value in (*args, *kwargs.values()))
        return (function if placeholders else strict)(*args, **kwargs)

    return call


checked = _unless_placeholders if version("jax").startswith("0.7.") else _checked
