"""A study: the grid of a recipe's macros, what is evaluated at the end, and the metrics that decide."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mixlm.errors import UserError, nearest
from mixlm.sweeps.formula import names_in

LOWEST, HIGHEST = "min", "max"


@dataclass(frozen=True)
class Grid:
    """The cells of a study: every arm, crossed with every value of each axis, crossed with the seeds.

    An axis is a macro (or a parameter, `Class.name`) with its values. `derived` are macros that follow from others and
    from SEED, by arithmetic, such as `{"UNIQUE_TOKENS": "BUDGET // REPEATS"}`, or as text, such as `{"INIT_FROM":
    "f'runs/{NAME}'"}`. An arm gives macros that are no grid; one that gives the macro of an axis stands at that value
    of the axis alone. Cells that differ in the axis `forks` alone begin as one run, and leave it at the step that the
    macro `fork_at` names, by default the axis itself.

    `recipes` are the gin files of each arm, read before the study's own, which then gives no recipe. `stems` are runs
    that are trained first and begun from, by a value of INIT_FROM: the gin files of the run for each arm, none for an
    arm that begins afresh. A stem is as its files say, whatever the study and the command line change in cells.
    """

    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    derived: Mapping[str, str] = field(default_factory=dict)
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    forks: str | None = None
    fork_at: str | None = None
    recipes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stems: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_arms()
        for macro, values in self.axes.items():
            if not values:
                raise UserError(f"The axis {macro} has no values: give it some, or leave it out.")
            if len(set(map(repr, values))) < len(values):
                raise UserError(f"The axis {macro} has a value twice: {', '.join(map(repr, values))}.")
            if macro in self.derived:
                raise UserError(
                    f"{macro} is an axis and derived from others as well ({self.derived[macro]!r}): give one."
                )
        for arm, macros in self.arms.items():
            for macro in macros:
                if macro in self.derived:
                    raise UserError(f"The arm {arm!r} gives {macro}, which is derived from others: give one of them.")
        for macro in ("SEED", "MODEL_DIR"):
            if macro in (*self.axes, *self.derived, *(name for arm in self.arms.values() for name in arm)):
                own = "seeds are Grid.seeds" if macro == "SEED" else "each cell has a folder of its own"
                raise UserError(f"{macro} is no axis: {own}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"Grid.seeds = {self.seeds} must be one seed or more, each once.")

    def _check_arms(self) -> None:
        """Makes an arm of every recipe; raises UserError for an arm without one, and for a stem of no arm."""
        if self.recipes:
            object.__setattr__(self, "arms", {**{arm: {} for arm in self.recipes}, **self.arms})
        for arm in self.arms if self.recipes else ():
            if arm not in self.recipes:
                raise UserError(f"The arm {arm!r} has no gin files in Grid.recipes.{nearest(arm, self.recipes)}")
        for stem, files in self.stems.items():
            for arm in files:
                if arm not in (self.arms or {"": {}}):
                    raise UserError(
                        f"The stem {stem!r} is of an arm {arm!r}, which there is not.{nearest(arm, self.arms)}"
                    )

    @staticmethod
    def macros_named(values: Mapping[str, Any]) -> set[str]:
        """The macros that the formulas in `derived` read, which gin itself cannot know."""
        formulas = values.get("derived", {})
        return {name for formula in dict(formulas).values() if isinstance(formula, str) for name in names_in(formula)}


@dataclass(frozen=True)
class Study:
    """A grid and what is asked of it; `gin/study.gin` binds what every study has.

    `evaluations` are scored at the end of each cell, by name: macros of `gin/evaluate.gin`, such as `{"MODES":
    "causal"}`, or a test, whose call with the cell's recipe returns figures by name. `metrics` are those that decide,
    each "min" or "max"; the first of them says which checkpoint is best. Paired differences are to `baseline`, values
    of axes or an arm. `claims` are rules of verdicts, which the report reads. `small` replaces what it names where
    `is_small`: fields of the grid (`axes`, `arms`, `seeds`, `derived`) and macros.
    """

    name: str
    recipe: str = ""
    grid: Grid = field(default_factory=Grid)
    evaluations: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    baseline: Mapping[str, Any] = field(default_factory=dict)
    claims: tuple[Any, ...] = ()
    folder: str | None = None
    small: Mapping[str, Any] = field(default_factory=dict)
    is_small: bool = False

    def __post_init__(self) -> None:
        if not self.name.strip() or "/" in self.name or self.name.startswith("."):
            raise UserError(f"Study.name = {self.name!r} names a folder: give it a plain name.")
        for metric, sense in self.metrics.items():
            if sense not in (LOWEST, HIGHEST):
                raise UserError(f"Study.metrics[{metric!r}] is {LOWEST!r} or {HIGHEST!r}, not {sense!r}.")
        for name in self.baseline:
            if name not in (*self.grid.axes, "arm"):
                raise UserError(f"Study.baseline: there is no axis {name!r}.{nearest(name, (*self.grid.axes, 'arm'))}")
        for name in self.evaluations:
            if not name.strip() or "/" in name or "@" in name:
                raise UserError(f"Study.evaluations: {name!r} is part of a column's name, so without / and @.")
