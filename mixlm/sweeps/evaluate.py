"""Evaluations at the end of a cell: text and pairs by the settings of `gin/evaluate.gin`, and tests."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mixlm.errors import UserError
from mixlm.evaluation.run import Scoring, prepare, score, write
from mixlm.evaluation.tables import pairs_content, text_content
from mixlm.evaluation.tasks import run as tasks
from mixlm.files import is_number
from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
from mixlm.recipe import Recipe
from mixlm.sweeps.cells import Cell
from mixlm.sweeps.sweep import Sweep

LAST, BEST = "evaluation", "evaluation@best"
# Figures of a text that a table needs; the others are in the run's evaluation folder.
TEXT_FIGURES = ("nats_per_token", "nats_error", "bits_per_byte", "bits_error")


@dataclass(frozen=True)
class Tested:
    """A test of a study: a call with the cell's recipe that returns figures by name."""

    test: Callable[[Recipe], Mapping[str, float]]


def is_evaluated(sweep: Sweep, cell: Cell) -> bool:
    """True where every evaluation of the study has been made of the cell, with today's settings."""
    held = sweep.folder.record(cell.name).get("evaluations", {})
    return all(held.get(name, {}).get("settings") == _settings(asked) for name, asked in asked_of(sweep, cell).items())


def asked_of(sweep: Sweep, cell: Cell) -> Mapping[str, Any]:
    """The evaluations of a cell; a stem has none."""
    return {} if cell.is_stem else sweep.study.evaluations


def evaluate(sweep: Sweep, cell: Cell, say: Callable[[str], Any]) -> None:
    """Makes the evaluations that are missing, of the last checkpoint and, where one is kept, of the best."""
    for name, asked in asked_of(sweep, cell).items():
        held = sweep.folder.record(cell.name).get("evaluations", {})
        settings = _settings(asked)
        if held.get(name, {}).get("settings") == settings:
            continue
        figures = {f"{LAST}/{name}/{figure}": value for figure, value in _figures(sweep, cell, asked, "", say).items()}
        if sweep.recipe(cell).best_metric is not None:
            best = _figures(sweep, cell, asked, "@best", say)
            figures |= {f"{BEST}/{name}/{figure}": value for figure, value in best.items()}
        sweep.folder.note(cell.name, evaluations=held | {name: {"settings": settings, "figures": figures}})


def _settings(asked: Any) -> str:
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:12]


def _figures(sweep: Sweep, cell: Cell, asked: Any, which: str, say: Callable[[str], Any]) -> dict[str, float]:
    place = {"MODEL_DIR": f"{sweep.folder.run(cell.name).path}{which}"}
    if not isinstance(asked, Mapping):
        recipe, _, tested = sweep.variants_of(cell).build(
            sweep.text(cell, place | {"Tested.test": asked}, (Tested,)), (Tested,)
        )
        return _checked(asked, tested.test(recipe))
    recipe, scoring = sweep.variants_of(cell).build(sweep.text(cell, place | dict(asked)))
    return scored(recipe, scoring, say)


def scored(recipe: Recipe, scoring: Scoring, say: Callable[[str], Any]) -> dict[str, float]:
    """The figures of an evaluation as MODE/FIGURE, or TASK/METRIC; all is written into the run's `evaluation/`."""
    if recipe.dataset.pairs is not None:
        return judged(recipe, scoring, say)
    with kept_in(recipe.dataset.cache / EXECUTABLES):
        prepared = prepare(recipe, scoring, say)
        figures, accuracies = score(prepared)
        write(prepared, figures, accuracies)
    found: dict[str, Any] = {}
    for mode, content in text_content(figures).items():
        found |= {f"{mode}/{name}": (content or {}).get(name) for name in TEXT_FIGURES}
    if accuracies:
        for mode, content in pairs_content(prepared.paradigms, accuracies)["modes"].items():
            overall = content["overall"]
            found |= {f"{mode}/pairs": overall["value"], f"{mode}/pairs/low": overall["low"]}
            found |= {f"{mode}/pairs/high": overall["high"]}
            found |= {f"{mode}/pairs/{field}": each["value"] for field, each in content["fields"].items()}
    return {name: float(value) for name, value in found.items() if value is not None}


def judged(recipe: Recipe, scoring: Scoring, say: Callable[[str], Any]) -> dict[str, float]:
    """The figures of a supervised run's tasks as TASK/METRIC."""
    with kept_in(recipe.dataset.cache / EXECUTABLES):
        prepared = tasks.prepare(recipe, scoring.task_examples, say)
        verdicts = tasks.evaluate(prepared)
        tasks.write(prepared, verdicts)
    return tasks.figures_of(verdicts)


def _checked(asked: Any, found: Any) -> dict[str, float]:
    if not isinstance(found, Mapping) or not all(is_number(value) for value in found.values()):
        raise UserError(f"{asked!r} must return figures by name, a dict of numbers, not {type(found).__name__}.")
    return {str(name): float(value) for name, value in found.items()}
