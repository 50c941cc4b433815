"""Cells of a grid: the values of axes, arm and seed of each, its name, and the macros that they amount to."""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixlm.errors import UserError
from mixlm.sweeps.formula import Derived, computed
from mixlm.sweeps.study import Grid

NAME_LENGTH = 120  # Ours: the characters of a cell's name, which is a folder's.
VALUE_LENGTH = 24  # Ours: of a value in it.


@dataclass(frozen=True)
class Cell:
    """One run of a study: its `values` are all macros and parameters that it sets, those of arm and axes included.

    `files` are the gin files that it is read from, before the study's own; a stem's are all that it is read from.
    """

    name: str
    arm: str
    axes: Mapping[str, Any]
    seed: int
    values: Mapping[str, Any] = field(repr=False)
    files: tuple[str, ...] = ()
    is_stem: bool = False


def cells_of(grid: Grid, value_of: Callable[[str], Any], fixed: Mapping[str, Any] | None = None) -> list[Cell]:
    """The cells of a grid, seeds innermost; `value_of` gives a macro of the files, `fixed` what every cell sets.

    Raises UserError, with the cell's name, for a formula that gives neither a number nor text.
    """
    points = list(_points(grid))
    names = [_name(arm, axes, seed, grid) for arm, axes, seed in points]
    found = []
    for (arm, axes, seed), name in zip(points, names):
        if names.count(name) > 1:
            name = f"{name},{hashlib.sha256(repr((arm, axes)).encode()).hexdigest()[:6]}"
        given = {**(fixed or {}), **grid.arms.get(arm, {}), **axes, "SEED": seed}
        derived = _derived(grid, given, value_of, name)
        found.append(Cell(name, arm, axes, seed, {**given, **derived}, tuple(grid.recipes.get(arm, ()))))
    return found


def stems_of(grid: Grid, cells: Sequence[Cell]) -> list[Cell]:
    """The stems of `grid.stems` that these cells begin from, each a run with the first seed."""
    wanted = dict.fromkeys((cell.arm, cell.values.get("INIT_FROM")) for cell in cells)
    return [
        Cell(stem_name(stem, arm), arm, {}, grid.seeds[0], {"SEED": grid.seeds[0]}, tuple(files[arm]), is_stem=True)
        for stem, files in grid.stems.items()
        for arm in files
        if (arm, stem) in wanted and files[arm]
    ]


def stem_name(stem: str, arm: str) -> str:
    """The name of an arm's stem, which is its folder's."""
    return f"stem,{_plain(stem)},{_plain(arm)}" if arm else f"stem,{_plain(stem)}"


def _points(grid: Grid) -> Iterator[tuple[str, dict[str, Any], int]]:
    for arm, macros in (grid.arms or {"": {}}).items():
        pinned = {name: (macros[name],) if name in macros else values for name, values in grid.axes.items()}
        for values in itertools.product(*pinned.values()):
            for seed in grid.seeds:
                yield arm, dict(zip(pinned, values)), seed


def _derived(grid: Grid, given: Mapping[str, Any], value_of: Callable[[str], Any], cell: str) -> dict[str, Derived]:
    found: dict[str, Derived] = {}

    def look_up(name: str, asked: tuple[str, ...] = ()) -> Any:
        if name in asked:
            raise UserError(f"{name} reads itself.")
        if name in grid.derived and name not in found:
            inner = (*asked, name)
            found[name] = computed(grid.derived[name], lambda each: look_up(each, inner), f"Cell {cell}: {name}")
        if name in found:
            return found[name]
        return given[name] if name in given else value_of(name)

    for name in grid.derived:
        look_up(name)
    return found


def _name(arm: str, axes: Mapping[str, Any], seed: int, grid: Grid) -> str:
    parts = [_plain(arm)] if arm else []
    parts += [f"{name}={shown(value)}" for name, value in axes.items()]
    name = ",".join([*parts, f"seed={seed}"])
    if len(name) <= NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: NAME_LENGTH - 30]},{digest},seed={seed}"


def shown(value: Any) -> str:
    """A value as the name of a folder has it."""
    text = repr(value) if isinstance(value, int | float) else _plain(str(value))
    if len(text) <= VALUE_LENGTH:
        return text
    return f"{text[: VALUE_LENGTH - 7]}-{hashlib.sha256(repr(value).encode()).hexdigest()[:6]}"


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "-"
