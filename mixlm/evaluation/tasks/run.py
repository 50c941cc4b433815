"""Evaluates the tasks of a trained run by their own metrics: figures, a table, and what was said beside the targets."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mixlm.checkpoints.load import check_run, load_params
from mixlm.data.judged import TaskMetrics
from mixlm.errors import UserError
from mixlm.evaluation.folders import FOLDER, LATEST, evaluation_folder, folder_name, link_latest
from mixlm.evaluation.tables import write_json
from mixlm.evaluation.tasks.examples import examples_of, tasks_of, too_long, write_records
from mixlm.evaluation.tasks.judge import Examples, Verdict, judge
from mixlm.evaluation.tasks.model import TrainedModel, networks
from mixlm.recipe import Recipe
from mixlm.reports.table import fixed

Say = Callable[[str], Any]
HOW_TO = (
    "give a Task of seqio's registry that has metric_fns, or --gin.PairTask.metric_fns='(@metrics.sequence_accuracy,)'"
)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A loaded run with the examples of its tasks; `data` is the fingerprint of the data."""

    recipe: Recipe
    settings: TaskMetrics
    step: int
    model: TrainedModel
    tasks: Sequence[Examples]
    vocabulary: Any
    data: str


def prepare(recipe: Recipe, examples: int | None = None, say: Say = print) -> Prepared:
    """Loads a run and `examples` validation examples of each task (None: all); UserError before anything is computed.

    Whatever else the recipe's `metrics` say holds here as well.
    """
    settings = replace(recipe.metrics, examples=examples)
    if not any(task.criteria().metric_fns for task in tasks_of(recipe)):
        names = " and ".join(repr(task.name) for task in tasks_of(recipe)) or "of this recipe's data"
        raise UserError(f"The task {names} has no metrics: {HOW_TO}.")
    wanted = networks(recipe, settings)
    check_run(recipe)
    data = recipe.dataset.prepare(say)
    step, params = load_params(recipe, wanted, data.vocabulary.fingerprint)
    tasks = examples_of(recipe, data, examples)
    model = TrainedModel(recipe, params, settings, recipe.partitioning.layout())
    return Prepared(recipe, settings, step, model, tasks, data.vocabulary, data.summary.fingerprint)


def summary(prepared: Prepared) -> list[str]:
    """The lines that describe what is evaluated."""
    recipe, decoding = prepared.recipe, prepared.settings.decoding or "as trained"
    lines = [f"run      {recipe.folder}, step {prepared.step}, decoding {decoding}"]
    lines += [f"task     {task.name}, {len(task.examples):,} validation examples" for task in prepared.tasks]
    return [*lines, *too_long(prepared.tasks, recipe.lengths)]


def evaluate(prepared: Prepared) -> dict[str, Verdict]:
    """The verdict on each task, by its name."""
    return {task.name: judge(task, prepared.model, prepared.vocabulary) for task in prepared.tasks}


def figures_of(verdicts: Mapping[str, Verdict]) -> dict[str, float]:
    """All figures as TASK/METRIC."""
    return {f"{task}/{name}": value for task, each in verdicts.items() for name, value in each.figures.items()}


def report(verdicts: Mapping[str, Verdict]) -> list[str]:
    """The lines of a table of all figures, and why others are left out."""
    found = figures_of(verdicts)
    width = max(map(len, found), default=0)
    lines = [f"{name:<{width}}  {fixed(value, 2):>8}" for name, value in found.items()]
    return ["", *lines, *(reason for each in verdicts.values() for reason in each.left_out)]


def write(prepared: Prepared, verdicts: Mapping[str, Verdict]) -> str:
    """Writes figures and records into a folder of their own in the run's `evaluation/`; returns where."""
    recipe, settings = prepared.recipe, prepared.settings
    count = sum(len(task.examples) for task in prepared.tasks)
    facts = (prepared.data, sorted(verdicts), replace(settings, batch=1))  # batches change no figure
    name = folder_name(prepared.step, count, "tasks", *facts)
    head = {"recipe": recipe.name, "step": prepared.step, "settings": asdict(settings)}
    with evaluation_folder(recipe.folder, name) as folder:
        content = {
            task: {"figures": dict(each.figures), "left_out": list(each.left_out)} for task, each in verdicts.items()
        }
        write_json(folder / "tasks.json", head | {"tasks": content})
        for task, each in verdicts.items():
            write_records(folder / file_of(task), each)
    reason = link_latest(recipe.folder, name)
    linked = f"{FOLDER}/{LATEST} is a link to it" if reason is None else f"{FOLDER}/{LATEST} is not made ({reason})"
    return f"In {recipe.folder / FOLDER / name}: tasks.json, {', '.join(map(file_of, verdicts))}; {linked}."


def file_of(task: str) -> str:
    """The name of a task's file of records."""
    return re.sub(r"[^\w.]", "_", task) + ".jsonl"
