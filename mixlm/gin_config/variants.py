"""Variants of one configuration, read once: the same gin files with other values of some macros or parameters."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mixlm.errors import UserError, nearest
from mixlm.gin_config.build import built, checked_text, program_of
from mixlm.gin_config.flags import Flags, gin_value
from mixlm.gin_config.names import mentioned
from mixlm.gin_config.program import Binding, Macro, Program, Reference, contained
from mixlm.gin_config.reader import bind, bound_to, placed, statement_of
from mixlm.gin_config.values import as_gin


def recipes_of(flags: Flags, grid: type) -> dict[str, tuple[str, ...]]:
    """The gin files of each arm, which the files bind to `recipes` of `grid`."""
    bound = bound_to(flags.gin_files, flags.search_paths, grid).get("recipes", {})
    return {str(arm): tuple(files) for arm, files in bound.items()} if isinstance(bound, dict) else {}


class Variants:
    """A configuration of `entries`, of which the first is the recipe, with a gin text for each set of other values.

    Values are as a Program holds them: references are built anew in each variant, so that they see its macros.
    `kinds` are dataclasses that are read as they stand, before anything is built; they are no part of a variant.
    """

    def __init__(
        self, flags: Flags, entries: Sequence[Callable[..., Any]], kinds: Sequence[type], files: Sequence[str] = ()
    ) -> None:
        self.entries, self._kinds = tuple(entries), tuple(kinds)
        self._program = program_of(flags, entries[0], files)

    # What stands in it

    def value(self, name: str) -> Any:
        """The value of a macro, behind other macros; UserError where there is none of this name."""
        if name not in self._program.macros:
            raise UserError(f"the gin files have no macro {name!r}.{nearest(name, self.macros)}")
        return self._program.resolved(Macro(name))

    def is_given(self, name: str) -> bool:
        """True for a macro that the command line or Python sets."""
        return name in self._program.macros and self._program.macros[name].given

    @property
    def macros(self) -> set[str]:
        """The macros that have a value, and those that are read."""
        values = [binding.value for _, binding in self._program.every_binding()]
        parts = [part for value in values for part in contained(value)]
        return {*self._program.macros, *(part.name for part in parts if isinstance(part, Macro) and not part.required)}

    @property
    def named(self) -> set[str]:
        """The macros that a formula reads."""
        return self._program.named

    @property
    def _of_kinds(self) -> set[str]:
        """The macros that `kinds` are bound to."""
        bound = [values for (_, target), values in self._program.bindings.items() if target.value in self._kinds]
        parts = [part for values in bound for each in values.values() for part in contained(each.value)]
        return {part.name for part in parts if isinstance(part, Macro)}

    def read(self, kind: type) -> Any:
        """The instance of one of `kinds` that the files bind, its macros followed and its references left."""
        checked_text(self._copy(), [*self.entries, kind])
        return self._read(kind)

    def _read(self, kind: type) -> Any:
        target = self._program.target(kind, kind.__module__, kind.__qualname__)
        bound = self._program.bindings.get(("", target), {})
        return kind(**{name: self._followed(binding.value) for name, binding in bound.items()})

    def _followed(self, value: Any) -> Any:
        value = self._program.resolved(value)
        if isinstance(value, Reference) and value.target.value in self._kinds:
            return self._read(value.target.value)
        if isinstance(value, dict):
            return {key: self._followed(entry) for key, entry in value.items()}
        return tuple(map(self._followed, value)) if isinstance(value, (list, tuple)) else value

    # What a variant changes

    def parsed(self, name: str, text: str, where: str) -> Any:
        """The value that `--gin.NAME=text` would bind; UserError begins with `where`."""
        with placed(where):
            return statement_of(self._program, name, gin_value(text), text).value

    def python(self, value: Any, where: str) -> Any:
        """The value that a Python value stands for."""
        return as_gin(self._program, value, where)

    def bind(self, kind: type, **values: Any) -> None:
        """Binds parameters of one of `kinds`, in place of those of the files."""
        target = self._program.target(kind, kind.__module__, kind.__qualname__)
        bound = self._program.bindings.setdefault(("", target), {})
        bound |= {name: Binding(value, target.path) for name, value in values.items()}

    @property
    def text(self) -> str:
        """The whole configuration as gin text, with what is bound to `kinds`."""
        return checked_text(self._copy(), [*self.entries, *self._kinds])

    def of(self, values: Mapping[str, Any], where: str, others: Sequence[Callable[..., Any]] = ()) -> str:
        """The gin text of the variant with these values of macros (NAME) and parameters (Class.name).

        It is checked for building the entries and `others`; raises UserError that names `where` for a value of the
        wrong type, and for one that nothing reads.
        """
        program, free = self._copy(), self.named | self._of_kinds
        for each in others:
            program.target(each, each.__module__, each.__qualname__)
        for name in free & program.macros.keys():
            program.macros[name] = dataclasses.replace(program.macros[name], given=False)
        for name, value in values.items():
            if "." not in name:
                program.macros[name] = Binding(value, where, given=name not in free)
                continue
            with placed(where):
                statement = statement_of(program, name, "None", name)
                bind(program, statement, Binding(value, where, given=True), partial(mentioned, program))
        program.bindings = {
            (scope, target): bound
            for (scope, target), bound in program.bindings.items()
            if target.value not in self._kinds
        }
        return checked_text(program, [*self.entries, *others])

    def build(self, text: str, others: Sequence[Callable[..., Any]] = ()) -> list[Any]:
        """The objects that gin builds of the entries and `others` under the text of a variant."""
        return built(text, [*self.entries, *others])

    def _copy(self) -> Program:
        """Checking a program fits its values in place."""
        program = copy.copy(self._program)
        program.macros = dict(program.macros)
        program.bindings = {key: dict(bound) for key, bound in program.bindings.items()}
        return program
