"""Builds a recipe from flags: the program is read, type-checked as a whole, and then built by gin."""

import dataclasses
import inspect
import os
import pprint
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import gin
from mixlm.errors import UserError
from mixlm.gin_config.flags import Flags
from mixlm.gin_config.program import Binding, Macro, Program, Reference, Target, contained, parameters
from mixlm.gin_config.reader import GIN_FOLDER, read
from mixlm.gin_config.types import MISFIT, annotations, beyond_limits, described, fitted
from mixlm.gin_config.values import by_macro, shortened

_WIDTH = 110


@runtime_checkable
class _KeepsConfig(Protocol):
    """A Recipe; its module is not imported here, so that a mistake in a gin file is reported before JAX is loaded."""

    def with_config(self, config: str) -> Any: ...


def load(
    *files: str | os.PathLike[str],
    search_paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    text: str | os.PathLike[str] | None = None,
    **macros: Any,
) -> Any:
    """Builds a recipe from gin files, later ones overriding earlier ones, and Python values for macros and parameters.

    Args:
      *files: names of gin files, found as by `--gin_file`: in the working directory, `search_paths`, the recipes.
      search_paths: further folders to look for gin files in.
      text: a file or folder of text to train on, as by `--text`.
      **macros: a value for each macro (`TRAIN_STEPS=50`) or parameter (`**{"SpacTor.temperature": 0.9}`): numbers,
        text, None, lists, tuples, dicts, paths, NumPy scalars, dtypes, and instances of dataclasses.

    Returns:
      The `mixlm.Recipe`; its `config` is the gin text that builds it again.

    Raises:
      UserError: with the sentence that the command line prints for the same mistake.

    Example: `load("dual.gin", ALPHA=0.25, TRAIN_STEPS=50, MODEL_DIR="runs/a")`.
    """
    folders = (search_paths,) if isinstance(search_paths, (str, os.PathLike)) else search_paths
    flags = Flags(
        gin_files=tuple(os.fspath(path) for path in files),
        search_paths=tuple(os.fspath(path) for path in folders),
        text=None if text is None else os.fspath(text),
        values=tuple(macros.items()),
    )
    from mixlm.recipe import Recipe

    return configured(flags, Recipe)


def configured(flags: Flags, entry: Callable[..., Any]) -> Any:
    """Returns what gin builds when it calls `entry` (a class or function) under the given files and bindings.

    Raises UserError with one sentence for every mistake in them, before anything is built.
    """
    return configured_all(flags, (entry,))[0]


def configured_all(flags: Flags, entries: Sequence[Callable[..., Any]], files: Sequence[str] = ()) -> list[Any]:
    """Returns what gin builds for each of `entries`, of which the first is the recipe.

    `files` are gin files that a command adds; they are read before those of the command line.
    """
    return built(config_text(flags, entries[0], entries[1:], files), entries)


def built(text: str, entries: Sequence[Callable[..., Any]]) -> list[Any]:
    """Returns what gin builds for each of `entries` under the gin text of `checked_text`."""
    gin.clear_config()
    with gin.config.interactive_mode():  # A module that was reloaded may register its classes again.
        gin.parse_config(text)
    try:
        values = [gin.get_configurable(entry)() for entry in entries]
    except UserError as error:
        # gin appends to the sentence which classes it was building.
        raise UserError(by_macro(str(error).partition("\n")[0])) from None
    return [value.with_config(operative_config()) if isinstance(value, _KeepsConfig) else value for value in values]


def config_text(
    flags: Flags, entry: Callable[..., Any], others: Sequence[Callable[..., Any]] = (), files: Sequence[str] = ()
) -> str:
    """Returns the whole configuration as one gin text, macros first; `configured` parses exactly this text."""
    return checked_text(program_of(flags, entry, files), (entry, *others))


def program_of(flags: Flags, entry: Callable[..., Any], files: Sequence[str] = ()) -> Program:
    """Reads the configuration of `entry`, a recipe; raises UserError where it gives not all that `entry` needs."""
    if not flags.gin_files:
        raise UserError(f"Which recipe? Name one with --gin_file=NAME: {_listed(recipes(entry))}.")
    # Absolute, since a file of that name in the working directory would come first.
    own = tuple(str(GIN_FOLDER / name) for name in files)
    program = read((*own, *flags.gin_files), flags.search_paths, flags.bindings, flags.text, len(own), flags.values)
    target = program.target(entry, entry.__module__, entry.__qualname__)
    missing = _missing(program, target)
    if missing or not any(bound == target for _, bound in program.bindings):
        lacking = f"gives {target} no {missing[0]!r}" if missing else f"sets nothing of {target}"
        known = _listed(name for name in recipes(entry) if name not in flags.gin_files)
        raise UserError(f"{' with '.join(flags.gin_files)} is no recipe: it {lacking}; recipes are {known}.")
    return program


def checked_text(program: Program, entries: Sequence[Callable[..., Any]]) -> str:
    """Type-checks all that `entries` are built of; returns the program as one gin text, macros first."""
    reached = _Reached()
    for each in entries:
        _check_call(program, program.target(each, each.__module__, each.__qualname__), (), reached)
    _check_effect(program, reached)
    return _text(program)


def operative_config() -> str:
    """Returns as gin text every parameter that the last `configured` used, defaults included."""
    return gin.operative_config_str(max_line_length=_WIDTH)


def recipes(entry: Callable[..., Any]) -> list[str]:
    """Returns the top-level gin files that on their own bind every required parameter of `entry`."""
    found = []
    for path in sorted(GIN_FOLDER.glob("*.gin")):
        try:
            program = read((str(path),), (), ())
        except UserError:
            continue
        target = program.target(entry, entry.__module__, entry.__qualname__)
        if any(bound == target for _, bound in program.bindings) and not _missing(program, target):
            found.append(path.name)
    return found


@dataclass
class _Reached:
    """The calls, macros and bindings that building the recipe reaches."""

    calls: list[tuple[Target, tuple[str, ...]]] = field(default_factory=list)
    macros: set[str] = field(default_factory=set)
    bindings: set[tuple[str, Target, str]] = field(default_factory=set)
    open_calls: list[tuple[Target, tuple[str, ...]]] = field(default_factory=list)


def _in_force(program: Program, target: Target, scopes: tuple[str, ...]) -> dict[str, str]:
    """Returns the parameters that are bound where gin calls `target`, each with the scope it is bound in."""
    return {
        name: scope
        for depth in range(len(scopes) + 1)
        for scope in ["/".join(scopes[:depth])]
        for name in program.bindings.get((scope, target), {})
    }


def _missing(program: Program, target: Target, scopes: tuple[str, ...] = ()) -> list[str]:
    """Returns the parameters without a default that have no value, and those still marked as required."""
    in_force = _in_force(program, target, scopes)
    given = {name: program.bindings[scope, target][name].value for name, scope in in_force.items()}
    needed = [
        name
        for name, parameter in parameters(target.value).items()
        if parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    required = [name for name, value in given.items() if isinstance(value, Macro) and value.required]
    return [name for name in needed if name not in given] + required


def _check_call(program: Program, target: Target, scopes: tuple[str, ...], reached: _Reached) -> None:
    """Checks the values that `target` is called with, and everything that they call."""
    if (target, scopes) in reached.open_calls:
        raise UserError(f"Building {target} needs another {target} without end.")
    if (target, scopes) in reached.calls:
        return
    reached.calls.append((target, scopes))
    reached.open_calls.append((target, scopes))
    hints = annotations(target.value)
    for name, scope in _in_force(program, target, scopes).items():
        reached.bindings.add((scope, target, name))
        parameter = f"{scope}/{target}.{name}".lstrip("/")
        _check_value(program, program.bindings[scope, target], name, parameter, hints.get(name, Any))
        _follow(program, program.bindings[scope, target][name].value, scopes, reached)
    reached.open_calls.pop()


def _check_value(program: Program, given: dict[str, Binding], name: str, parameter: str, hint: Any) -> None:
    """Type-checks a value where it was given, behind any macros; raises UserError naming that place."""
    shown, binding = parameter, given[name]
    while isinstance(binding.value, Macro) and not binding.value.required:
        given, name = program.macros, binding.value.name
        shown, binding = name, given[name]
    where = binding.where if shown == parameter else f"{binding.where}, read by {parameter}"
    if isinstance(binding.value, Macro):
        raise UserError(f"{shown} ({where}) has no value yet: give it with --gin.{shown}=value.")
    if hint is not Any and (beyond := beyond_limits(binding.value)) is not None:
        raise UserError(f"{shown} ({where}) {beyond}.")
    value = fitted(binding.value, hint, program.macros)
    if value is MISFIT and binding.typed is not None and isinstance(binding.value, (int, float)):
        # A folder may be called 2026: the characters typed are the value of a str parameter.
        value = fitted(binding.typed, hint, program.macros)
    if value is MISFIT:
        raise UserError(f"{shown} ({where}) must be {described(hint)}, got {shortened(repr(binding.value))}.")
    if hint is not Any and (beyond := beyond_limits(value)) is not None:  # 1e300 is a whole number, too
        raise UserError(f"{shown} ({where}) {beyond}.")
    given[name] = dataclasses.replace(binding, value=value)


def _follow(program: Program, value: Any, scopes: tuple[str, ...], reached: _Reached) -> None:
    """Follows macros and references as gin does: a scope of their own replaces the enclosing one."""
    if isinstance(value, Macro) and not value.required:
        reached.macros.add(value.name)
        _follow(program, program.macros[value.name].value, tuple(value.name.split("/")), reached)
    elif isinstance(value, Reference):
        # A reference that is not called here is called later, with no scope open but its own.
        inner = value.scopes or (scopes if value.called else ())
        if value.called and (missing := _missing(program, value.target, inner)):
            raise UserError(f"{value} has no {missing[0]!r}: give it with --gin.{value.target}.{missing[0]}=value.")
        _check_call(program, value.target, inner, reached)
    elif isinstance(value, dict):
        _follow(program, [*value.keys(), *value.values()], scopes, reached)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            _follow(program, entry, scopes, reached)


def _check_effect(program: Program, reached: _Reached) -> None:
    """Raises UserError for a value given on the command line that nothing reads."""
    for name, binding in program.macros.items():
        if binding.given and name not in reached.macros | program.named:
            raise UserError(f"{binding.where} has no effect: nothing in this recipe reads %{name}.")
    for (scope, target), values in program.bindings.items():
        for name, binding in values.items():
            if binding.given and (scope, target, name) not in reached.bindings:
                raise UserError(f"{binding.where} has no effect: {_reason(target, scope, name, reached)}.")


def _reason(target: Target, scope: str, name: str, reached: _Reached) -> str:
    """Returns why nothing reads a parameter that is bound in `scope`."""
    if target not in {built for built, _ in reached.calls}:
        return f"this recipe never builds {target}"
    if scope and not any(
        "/".join((*scopes, "")).startswith(f"{scope}/") for built, scopes in reached.calls if built == target
    ):
        return f"this recipe builds {target} in no scope {scope!r}"
    scopes = sorted(there for there, built, bound in reached.bindings if (built, bound) == (target, name))
    return f"this recipe gives it as {' and '.join(f'{there}/{target}.{name}' for there in scopes)}"


def _text(program: Program) -> str:
    lines = ["from __gin__ import dynamic_registration"]
    used = {target for _, target in program.bindings}
    parts = [part for _, binding in program.every_binding() for part in contained(binding.value)]
    used |= {part.target for part in parts if isinstance(part, Reference)}
    for module in sorted({target.module for target in used}):
        lines.append(_import_line(module, program.bound_names[module]))
    if program.macros:
        lines += ["", "# Macros"]
        lines += [_binding_line(program, name, program.macros[name].value) for name in sorted(program.macros)]
    for (scope, target), values in sorted(program.bindings.items(), key=lambda item: (str(item[0][1]), item[0][0])):
        prefix = f"{scope}/{target}".lstrip("/")
        lines += ["", f"# {prefix}"]
        lines += [_binding_line(program, f"{prefix}.{name}", values[name].value) for name in sorted(values)]
    return "\n".join(lines) + "\n"


def _import_line(module: str, bound: str) -> str:
    parent, _, last = module.rpartition(".")
    line = f"from {parent} import {last}" if parent else f"import {last}"
    return line if bound == last else f"{line} as {bound}"


def _binding_line(program: Program, name: str, value: Any) -> str:
    shown = pprint.pformat(value, width=_WIDTH - 4, sort_dicts=False)
    if "\n" in shown or len(name) + len(shown) > _WIDTH:
        return f"{name} = \\\n    " + shown.replace("\n", "\n    ")
    resolved = value
    while isinstance(resolved, Macro) and resolved.name in program.macros:
        resolved = program.macros[resolved.name].value
    comment = f"  # {resolved!r}" if isinstance(value, Macro) and len(repr(resolved)) < 40 else ""
    return f"{name} = {shown}{comment}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or f"none was found in {GIN_FOLDER}"
