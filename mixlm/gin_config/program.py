"""A gin configuration as plain data: macros, and values bound to the parameters of classes.

gin itself reports a mistake late, or never (a macro that nobody reads), and keeps no record of where a value came from.
So `reader` reads into this Program, `build` checks it, and gin then builds from the whole, printed as one text.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixlm.errors import UserError, nearest
from mixlm.gin_config.folder import macros_of


@dataclass(frozen=True)
class Target:
    """A class or function that gin can call: `path` within `module`, which a program's text calls `bound`."""

    value: Callable[..., Any]
    module: str
    path: str
    bound: str

    def __str__(self) -> str:
        return f"{self.bound}.{self.path}"


@dataclass(frozen=True)
class Reference:
    """`@scope/module.Class()`, or without the brackets the class or function itself."""

    scopes: tuple[str, ...]
    target: Target
    called: bool

    def __repr__(self) -> str:
        return "@" + "/".join((*self.scopes, str(self.target))) + ("()" if self.called else "")


@dataclass(frozen=True)
class Macro:
    """`%NAME`, the value that the macro NAME has once everything is read."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"

    @property
    def required(self) -> bool:
        """True for gin.REQUIRED, which marks a value that must still be given."""
        return self.name in ("REQUIRED", "gin.REQUIRED")


@dataclass(frozen=True)
class Binding:
    """A value and its place; `typed` is the text of one from the command line.

    One that is `given` there or from Python must have an effect.
    """

    value: Any
    where: str
    typed: str | None = None
    given: bool = False


@dataclass
class Program:
    """All bindings read so far; later ones have replaced earlier ones, as in gin.

    `recorded` are macros of a run's own config.gin, which may be those of an earlier version. `named` are those that a
    class reads by their names: its `macros_named` finds them in the values that are bound to it.
    """

    macros: dict[str, Binding] = field(default_factory=dict)
    bindings: dict[tuple[str, Target], dict[str, Binding]] = field(default_factory=dict)
    mentioned: list[Target] = field(default_factory=list)
    symbols: dict[str, Any] = field(default_factory=dict)
    bound_names: dict[str, str] = field(default_factory=dict)
    recorded: set[str] = field(default_factory=set)

    @property
    def named(self) -> set[str]:
        """The macros that some value names in its text, such as a formula."""
        found: set[str] = set()
        for (_, target), values in self.bindings.items():
            if (finds := getattr(target.value, "macros_named", None)) is not None:
                found |= finds({name: binding.value for name, binding in values.items()})
        return found

    def resolved(self, value: Any) -> Any:
        """The value behind a chain of macros."""
        while isinstance(value, Macro) and value.name in self.macros:
            value = self.macros[value.name].value
        return value

    def target(self, value: Any, module: str, path: str) -> Target:
        """Returns the one target of a class or function, whichever import it was reached through."""
        home, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        if home in sys.modules and getattr(sys.modules[home], name, None) is value:
            module, path = home, name
        bound = module.rpartition(".")[2]
        if module not in self.bound_names and (bound in self.bound_names.values() or bound == "gin"):
            bound = module.replace(".", "_")
        target = Target(value, module, path, self.bound_names.setdefault(module, bound))
        if target not in self.mentioned:
            self.mentioned.append(target)
        return target

    def every_binding(self) -> Iterator[tuple[str, Binding]]:
        """Yields macros and bindings, each with its name as gin spells it."""
        yield from self.macros.items()
        for (scope, target), values in self.bindings.items():
            for name, binding in values.items():
                yield f"{scope}/{target}.{name}".lstrip("/"), binding


def contained(value: Any) -> Iterator[Any]:
    """Yields a value and everything nested in its lists, tuples and dicts."""
    yield value
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from contained(entry)


def parameters(value: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the keyword parameters of a class or function."""
    unnamed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    return {name: p for name, p in inspect.signature(value).parameters.items() if p.kind not in unnamed}


def check_macros(program: Program, declared: set[str], folder: Path) -> None:
    """Raises UserError for a macro that is read but has no value, that is set on the command line but never declared,
    or that a gin file sets although nothing reads it and no file in `folder` gives it.
    """
    read_macros = [
        (macro.name, name, binding)
        for name, binding in program.every_binding()
        for macro in contained(binding.value)
        if isinstance(macro, Macro) and not macro.required
    ]
    known = declared | {macro for macro, _, _ in read_macros}
    for name in program.macros:
        if name not in known:
            raise UserError(f"--gin.{name}: the gin files have no macro {name!r}.{nearest(name, known)}")
    unread = program.macros.keys() - program.recorded - program.named - {macro for macro, _, _ in read_macros}
    library = macros_of(folder) if unread else set()
    for name in sorted(unread - library):
        hint = nearest(name, library | known - {name})
        raise UserError(f"{program.macros[name].where}: nothing reads a macro {name!r}.{hint}")
    for macro, name, binding in read_macros:
        if macro not in program.macros:
            hint = nearest(macro, program.macros)
            raise UserError(
                f"{binding.where}: {name} reads %{macro}, which has no value: give it with --gin.{macro}=value.{hint}"
            )
    for name in program.macros:
        _check_ends(program, name, (name,))


def _check_ends(program: Program, name: str, path: tuple[str, ...]) -> None:
    """Raises UserError for a macro that reads itself."""
    for macro in contained(program.macros[name].value):
        if isinstance(macro, Macro) and not macro.required:
            if macro.name in path:
                raise UserError(f"{program.macros[name].where}: the macro {macro.name} reads itself.")
            _check_ends(program, macro.name, (*path, macro.name))
