"""Names in gin files: the modules that a file imports, and the classes and functions that they lead to."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from mixlm.errors import UserError, nearest
from mixlm.gin_config.moved import moved_module, moved_name, old_module
from mixlm.gin_config.program import Macro, Program, Reference, Target


class Names:
    """The delegate of gin's parser, which makes references and macros."""

    def __init__(self, resolve: Callable[[str], Target]) -> None:
        self._resolve = resolve

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Reference:
        *scopes, selector = scoped_selector.split("/")
        return Reference(tuple(scopes), self._resolve(selector), evaluate)

    def macro(self, name: str) -> Macro:
        return Macro(name)


def mentioned(program: Program, selector: str) -> Target:
    """The class that the files mention under a name, which may leave out its module."""
    known = program.mentioned
    matches = [target for target in known if str(target) == selector]
    matches = matches or [target for target in known if f".{target.module}.{target.path}".endswith(f".{selector}")]
    if len(matches) > 1:
        choices = " or ".join(f"{target.module}.{target.path}" for target in matches)
        raise UserError(f"{selector!r} could be {choices}.")
    if matches:
        return matches[0]
    if selector.partition(".")[0] in program.symbols and "." in selector:
        return resolved(program, program.symbols, selector)
    hint = nearest(selector, [name for target in known for name in (target.path, str(target))])
    raise UserError(f"the gin files mention no class {selector!r}.{hint}")


def import_module(symbols: dict[str, Any], statement: Any, of_run: bool) -> None:
    """Binds a module to the name that gin gives it; the config.gin of a run may import a module of 0.4.3."""
    module = statement.module
    if module == "__gin__.dynamic_registration":
        return
    if of_run and statement.is_from and (old := old_module(module)) is not None:
        symbols[statement.bound_name()] = old
        return
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        # A missing dependency of an existing module is no misspelling: its own error is clear.
        if not error.name or not f"{module}.".startswith(f"{error.name}."):
            if moved := moved_module(error.name or ""):
                raise UserError(f"{module} imports {error.name}.{moved}") from None
            raise
        parent, _, last = module.rpartition(".")
        hint = moved_module(module) or _nearest_module(parent, last)
        raise UserError(f"there is no module {module!r}.{hint}") from None
    by_its_end = statement.is_from or statement.alias
    symbols[statement.bound_name()] = imported if by_its_end else sys.modules[statement.bound_name()]


def _nearest_module(parent: str, name: str) -> str:
    try:
        path = getattr(importlib.import_module(parent), "__path__", None) if parent else None
    except ImportError:
        return ""
    if parent and path is None:
        return f" {parent!r} is a module: import it, and write {parent.rpartition('.')[2]}.{name}."
    return nearest(name, [module.name for module in pkgutil.iter_modules(path)])


def resolved(program: Program, symbols: dict[str, Any], selector: str) -> Target:
    """Follows `symbol.attribute...` to a class or function."""
    first, *attributes = selector.split(".")
    if first not in symbols:
        raise UserError(f"{first!r} of {selector!r} is not imported in this file.{nearest(first, symbols)}")
    value, module, path = symbols[first], first, ""
    for attribute in attributes:
        if not hasattr(value, attribute):
            known = [name for name in dir(value) if not name.startswith("_") and callable(getattr(value, name, None))]
            shown = getattr(value, "__name__", str(value))
            hint = moved_name(shown, attribute) or nearest(attribute, known)
            raise UserError(f"{shown} has no {attribute!r}.{hint}")
        if isinstance(value, ModuleType):
            module, path = value.__name__, ""
        value, path = getattr(value, attribute), f"{path}.{attribute}".lstrip(".")
    if not inspect.isclass(value) and not inspect.isroutine(value):
        raise UserError(f"{selector!r} is no class or function.")
    return program.target(value, module, path)
