"""study.json: what a study asked for: its axes, arms, seeds, expected cells, deciding metrics, baseline and claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mixlm import files
from mixlm.errors import UserError, nearest

FILE = "study.json"
AXIS = "axis/"
GOALS = ("min", "max")


class NotInGrid(UserError):
    """A selector asks for a value or an arm that the study does not have, as where it was reduced."""


@dataclass(frozen=True)
class Place:
    """One point of a study's grid: an arm, "" without one, and a value for each axis that the arm is crossed with."""

    arm: str
    axes: tuple[tuple[str, Any], ...]

    @property
    def values(self) -> dict[str, Any]:
        """The axes by name."""
        return dict(self.axes)

    @property
    def label(self) -> str:
        """The place in words, such as "ALPHA 0.5, EPOCHS 16"."""
        axes = [f"{name} {shown(value)}" for name, value in self.axes]
        return ", ".join([self.arm, *axes] if self.arm else axes) or "the recipe"

    def moved(self, selector: Mapping[str, Any]) -> "Place":
        """The place with the arm or the axes of a selector put in their stead."""
        axes = tuple((name, selector.get(name, value)) for name, value in self.axes)
        return Place(selector.get("arm", self.arm), axes)

    def matches(self, selector: Mapping[str, Any]) -> bool:
        """True where the arm and the axes are those of a selector, whose values may be lists of values."""
        mine = {"arm": self.arm} | self.values
        return all(
            name in mine and any(same(mine[name], each) for each in _listed(asked)) for name, asked in selector.items()
        )


@dataclass(frozen=True)
class Expected:
    """A cell that a study expects: the name of its folder, its place and its seed."""

    cell: str
    place: Place
    seed: int


@dataclass(frozen=True)
class Study:
    """A study as it was asked for; `metrics` are the deciding ones with "min" or "max"."""

    name: str
    axes: dict[str, list[Any]]
    arms: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    cells: list[Expected] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)
    recipe: str = ""
    version: str = ""

    @property
    def places(self) -> list[Place]:
        """Every point of the grid once: arms and axes in the order that study.json gives them."""
        return list(dict.fromkeys(cell.place for cell in self.cells))

    def order(self, place: Place) -> tuple[int, ...]:
        """The key that places are sorted by."""
        arm = self.arms.index(place.arm) if place.arm in self.arms else -1
        values = place.values
        return (arm, *(position(values[name], known) if name in values else -1 for name, known in self.axes.items()))

    def selector(self, where: str, asked: Any) -> dict[str, Any]:
        """A selector by plain names, `{"arm": NAME}` or `{MACRO: value}`; UserError, with `where`, for none of ours."""
        if not isinstance(asked, Mapping):
            raise UserError(f"{where} of {self.name} is a selector such as {{'arm': NAME}}, not {asked!r}.")
        found = {}
        for name, value in asked.items():
            plain = str(name).removeprefix(AXIS).removeprefix("axis ")
            if plain != "arm" and plain not in self.axes:
                raise UserError(
                    f"{where} of {self.name} names {name!r}, and its axes are {', '.join(self.axes) or 'none'}."
                    f"{nearest(plain, self.axes)}"
                )
            known = self.known(plain)
            for each in _listed(value):
                if not any(same(each, other) for other in known):
                    raise NotInGrid(
                        f"{where} of {self.name} asks for {plain} {each!r}, which has {', '.join(map(str, known))}."
                        f"{nearest(str(each), map(str, known))}"
                    )
            found[plain] = value
        return found

    def known(self, name: str) -> list[Any]:
        """The arms, for "arm", or the values of an axis, those at which an arm alone stands included."""
        if name == "arm":
            return self.arms
        values = [*self.axes[name], *(each.values[name] for each in self.places if name in each.values)]
        return list({key(value): value for value in values}.values())

    def goal(self, metric: str) -> str:
        """The direction that is better, "min" or "max", as the study says for this metric at any checkpoint."""
        plain = bare(metric)
        goals = {bare(name): goal for name, goal in self.metrics.items()}
        # Ours: losses are what most metrics are; accuracies and exact matches say so by their names.
        return goals.get(plain, "max" if plain.endswith(("accuracy", "exact", "overall", "pairs")) else "min")


def bare(metric: str) -> str:
    """A metric's name without the checkpoint that it is read at, "best:" or "final:"."""
    return metric.removeprefix("best:").removeprefix("final:")


def same(one: Any, other: Any) -> bool:
    """True for equal values of an axis; 1 and 1.0 are one value, and lists are tuples."""
    return key(one) == key(other)


def key(value: Any) -> str:
    """The text by which a value of an axis is compared."""
    if isinstance(value, list | tuple):
        return str(list(value))
    if isinstance(value, bool) or value is None:
        return str(value)
    try:
        return repr(float(value))  # a column of numbers and words is read as words
    except (TypeError, ValueError):
        return str(value)


def position(value: Any, known: Sequence[Any]) -> int:
    """The rank of a value among an axis' values, after them all where it is none."""
    keys = [key(each) for each in known]
    return keys.index(key(value)) if key(value) in keys else len(keys)


def shown(value: Any) -> str:
    """A value of an axis as a person reads it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.10g}" if abs(value) >= 1e4 else f"{value:.6g}"
    return str(value)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def read_study(path: Path) -> Study:
    """The study of a study.json; UserError names the entry that is not as it should be."""
    content: dict[str, Any] = files.read_json(path)
    for name, kind in (("name", str), ("axes", dict), ("cells", list), ("metrics", dict)):
        if not isinstance(content.get(name), kind):
            raise UserError(f"{path} is no study.json of a sweep: its {name!r} is no {_KINDS[kind]}.")
    axes = {str(name): list(_listed(values)) for name, values in content["axes"].items()}
    for metric, goal in content["metrics"].items():
        if goal not in GOALS:
            raise UserError(f"{path}: the metric {metric!r} is to be 'min' or 'max', not {goal!r}.")
    arms = [str(name) for name in content.get("arms") or []]
    study = Study(
        content["name"],
        axes,
        arms,
        sorted(int(seed) for seed in content.get("seeds") or []),
        [_expected(path, cell, axes) for cell in content["cells"]],
        dict(content["metrics"]),
        dict(content.get("baseline") or {}),
        [dict(claim) for claim in content.get("claims") or []],
        str(content.get("recipe") or ""),
        str(content.get("version") or ""),
    )
    # One order, whatever order they were written in.
    return replace(study, cells=sorted(study.cells, key=lambda each: (study.order(each.place), each.seed, each.cell)))


_KINDS = {str: "text", dict: "object", list: "array"}


def _expected(path: Path, cell: Any, axes: Mapping[str, list[Any]]) -> Expected:
    """A cell of study.json, `{"cell", "arm", "axes": {MACRO: value}, "seed"}`."""
    if not isinstance(cell, dict) or not isinstance(cell.get("cell"), str) or "seed" not in cell:
        raise UserError(f"{path} names a cell without 'cell' and 'seed': {cell!r}.")
    values = cell.get("axes") or {}
    strange = [name for name in values if name not in axes]
    if strange:
        raise UserError(f"{path} gives cell {cell['cell']!r} the axis {strange[0]!r}, which the study does not have.")
    return Expected(cell["cell"], place_of(cell.get("arm") or "", values, axes), int(cell["seed"]))


def place_of(arm: str, values: Mapping[str, Any], axes: Mapping[str, list[Any]]) -> Place:
    """A place whose values are those that the study spells, so that equal places are equal."""
    found = []
    for name, known in axes.items():
        if name in values:
            match = [each for each in known if same(each, values[name])]
            value = match[0] if match else values[name]
            found.append((name, tuple(value) if isinstance(value, list) else value))
    return Place(arm, tuple(found))
