"""Types are checked on every function of mixlm: by beartype, and where shapes are annotated through jaxtyping.

jaxtyping binds the arguments of every call, also of functions that annotate nothing, which takes a fifth of the time
that tracing does: a function that mentions no shape has none to bind, and gets beartype alone.
"""

import inspect
import re
from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

# An int is a float too.
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_SHAPES = re.compile(r"\b(?:Bool|Complex|Float|Inexact|Int|Integer|Key|Num|PyTree|PRNGKey|Real|Shaped|UInt)\w*\[")


def _unless_placeholders(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` checked, but for calls with a bare object(): vmap of jax 0.7 builds pytrees whose leaves are those."""
    strict = _checked(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        placeholders = any(type(value) is object for value in (*args, *kwargs.values()))
        return (function if placeholders else strict)(*args, **kwargs)

    return call


checked = _unless_placeholders if version("jax").startswith("0.7.") else _checked


def install() -> None:
    """Puts the checks on what is imported of mixlm from now on."""
    with_shapes = jaxtyping.jaxtyped

    def jaxtyped(function=None, *, typechecker):
        if function is None:
            return lambda function: jaxtyped(function, typechecker=typechecker)
        # A name in quotes may be of a module that is imported for type checkers alone, which beartype alone refuses.
        quoted = any(isinstance(hint, str) for hint in getattr(function, "__annotations__", {}).values())
        if inspect.isfunction(function) and not quoted and not _SHAPES.search(str(function.__annotations__)):
            return typechecker(function) if function.__annotations__ else function
        return with_shapes(function, typechecker=typechecker)

    jaxtyping.jaxtyped = jaxtyped
    jaxtyping.install_import_hook("mixlm", "typecheck.checked")
