"""A study with its configuration: cells that are checked as a whole, each with the recipe that it trains."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mixlm import __version__
from mixlm.errors import UserError, nearest
from mixlm.evaluation.run import Scoring
from mixlm.gin_config.flags import Flags
from mixlm.gin_config.variants import Variants, recipes_of
from mixlm.recipe import Recipe
from mixlm.sweeps.cells import Cell, cells_of, stems_of
from mixlm.sweeps.folder import StudyFolder, default_folder
from mixlm.sweeps.forks import Fork, check_forks, forks_of, stem_forks, stem_values
from mixlm.sweeps.study import Grid, Study

FILES = ("evaluate.gin", "study.gin")
GRID_FIELDS = ("axes", "arms", "seeds", "derived")


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """A study that was read: its cells, stems first, its folder, and the configuration of which cells are variants.

    Arms with gin files of their own, and stems, are variants of one of `others`.
    """

    study: Study
    cells: Sequence[Cell]
    folder: StudyFolder
    variants: Variants
    forks: Mapping[str, Fork]
    others: Mapping[tuple[tuple[str, ...], bool], Variants] = dataclasses.field(default_factory=dict)

    def variants_of(self, cell: Cell) -> Variants:
        """The configuration of which a cell is a variant."""
        return self.others.get((cell.files, cell.is_stem), self.variants)  # a grid without recipes has one alone

    def recipe(self, cell: Cell) -> Recipe:
        """The recipe of a cell, whose MODEL_DIR is in the study's folder; UserError begins with the cell's name."""
        try:
            found: Recipe = self.variants_of(cell).build(self.text(cell))[0]
        except UserError as error:
            raise UserError(f"Cell {cell.name}: {error}") from None
        return found

    def text(self, cell: Cell, values: Mapping[str, Any] | None = None, others: Sequence[Any] = ()) -> str:
        """The gin text of a cell, with other values of some macros and what else is built."""
        own: dict[str, Any] = {"MODEL_DIR": str(self.folder.run(cell.name).path), **stem_values(self.forks, cell.name)}
        if (fork := self.forks.get(cell.name)) is not None:
            own |= fork.begin(self.folder.run(fork.stem).path)
        elif cell.values.get("INIT_FROM") in self.study.grid.stems:
            own |= {"INIT_FROM": None}
        return self.variants_of(cell).of(
            {**cell.values, **own, **(values or {})}, f"Cell {cell.name}", (Scoring, *others)
        )

    def cell(self, name: str) -> Cell:
        """The cell of a name, or of its number from 0; UserError where there is none."""
        for number, each in enumerate(self.cells):
            if name in (each.name, str(number)):
                return each
        raise UserError(f"The study has no cell {name!r}.{nearest(name, [each.name for each in self.cells])}")

    @property
    def content(self) -> dict[str, Any]:
        """The content of study.json."""
        grid = self.study.grid
        return {
            "name": self.study.name,
            "recipe": self.study.recipe,
            "axes": {name: [plain(value) for value in values] for name, values in grid.axes.items()},
            "arms": list(grid.arms),
            "seeds": list(grid.seeds),
            "forks": grid.forks,
            "stems": [cell.name for cell in self.cells if cell.is_stem],
            "cells": [
                {"cell": cell.name, "arm": cell.arm, "axes": plain(cell.axes), "seed": cell.seed}
                for cell in self.cells
                if not cell.is_stem
            ],
            "metrics": dict(self.study.metrics),
            "baseline": plain(self.study.baseline),
            "claims": plain(self.study.claims),
            "version": __version__,
        }

    def check(self) -> dict[str, Recipe]:
        """Builds the recipe of every cell, before any runs; raises UserError for the first mistake in one of them."""
        recipes = {cell.name: self.recipe(cell) for cell in self.cells}
        check_forks(self.forks, recipes)
        self.folder.check(self.content)
        for name, recipe in recipes.items():
            try:
                self.folder.run(name).check(recipe.identity())
            except UserError as error:
                raise UserError(f"Cell {name}: {error}") from None
        return recipes


def read_sweep(
    flags: Flags, axes: Mapping[str, Any] | None = None, seeds: Sequence[int] | None = None, name: str | None = None
) -> Sweep:
    """Reads a study from gin files; `axes` are further axes, or other values of the study's own.

    A value of `axes` is a sequence of Python values, or of texts as a command line has them, as a `Texts`.
    """
    recipes = recipes_of(flags, Grid)
    first = next(iter(recipes.values()), ())
    variants = _configuration(flags, (*first, *flags.gin_files))
    if variants.is_given("MODEL_DIR"):
        raise UserError("MODEL_DIR is each cell's own: a study's folder is given with --gin.STUDY_FOLDER=FOLDER.")
    study, reduced = _reduced(variants.read(Study))
    # What the command line gives stands.
    fixed = {macro: value for macro, value in reduced.items() if not variants.is_given(macro)}
    given = {axis: _values(variants, axis, values) for axis, values in (axes or {}).items()}
    of_file = study.grid.axes
    grid = dataclasses.replace(study.grid, axes={**of_file, **given})
    if seeds is not None:
        grid = dataclasses.replace(grid, seeds=tuple(seeds))
    if name is None:
        name = study.name if of_file or not given else "-".join([study.name, *given])
    study = dataclasses.replace(study, grid=grid, name=name)
    others = {(first, False): variants}
    for files in map(tuple, grid.recipes.values()):
        if (files, False) not in others:
            others[files, False] = _configuration(flags, (*files, *flags.gin_files))
    _check_macros(
        grid, {arm: others[tuple(grid.recipes.get(arm, first)), False].macros for arm in grid.arms or {"": {}}}
    )
    variants.bind(Grid, axes=dict(grid.axes), seeds=grid.seeds)
    variants.bind(Study, name=name)
    folder = StudyFolder(study.folder or default_folder(f"{name}-small" if study.is_small else name))
    cells = cells_of(grid, variants.value, fixed)
    stems = stems_of(grid, cells)
    for number, stem in enumerate(stems):
        of_stem = others[stem.files, True] = _configuration(Flags((), flags.search_paths, text=flags.text), stem.files)
        own = {macro: value for macro, value in reduced.items() if macro in of_stem.macros}
        stems[number] = dataclasses.replace(stem, values={**stem.values, **own})
    forks = forks_of(grid, cells) | stem_forks(grid, cells)
    return Sweep(study, [*stems, *cells], folder, variants, forks, others)


def _configuration(flags: Flags, files: tuple[str, ...]) -> Variants:
    return Variants(dataclasses.replace(flags, gin_files=files), (Recipe, Scoring), (Study, Grid), FILES)


class Texts(tuple[str, ...]):
    """The values of an axis as a command line has them."""


def _values(variants: Variants, axis: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, Texts):
        return tuple(variants.parsed(axis, text, f"--sweep.{axis}") for text in values)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UserError(f"The axis {axis} is a sequence of values, not {values!r}.")
    return tuple(variants.python(value, f"The axis {axis}") for value in values)


def _reduced(study: Study) -> tuple[Study, dict[str, Any]]:
    """The study at its small size where that is asked for, and the macros that this sets."""
    if not study.is_small:
        return study, {}
    if not study.small:
        raise UserError("SMALL = True asks for a reduced study, and this one does not say how (study.Study.small).")
    fields = {name: value for name, value in study.small.items() if name in GRID_FIELDS}
    macros = {name: value for name, value in study.small.items() if name not in GRID_FIELDS}
    for macro in macros:
        if macro != macro.upper() and "." not in macro:
            raise UserError(f"study.Study.small: {macro!r} is no field of the grid.{nearest(macro, GRID_FIELDS)}")
    return dataclasses.replace(study, grid=dataclasses.replace(study.grid, **fields)), macros


def _check_macros(grid: Grid, macros_of: Mapping[str, set[str]]) -> None:
    """Raises UserError for an axis, an arm's macro or a derived one that the gin files of an arm do not have."""
    for arm, known in macros_of.items():
        places = [("The axis", name) for name in grid.axes]
        places += [("The derived macro", name) for name in grid.derived]
        places += [(f"The arm {arm!r}: the macro", name) for name in grid.arms.get(arm, {})]
        for what, name in places:
            if "." not in name and name not in known:
                raise UserError(f"{what} {name} is no macro of the gin files.{nearest(name, known)}")


def plain(value: Any) -> Any:
    """A value as JSON holds it: what is no number, text or None is shown as gin writes it."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
