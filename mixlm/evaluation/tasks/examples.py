"""The validation examples of a run's tasks, and the records of what was said to them as JSON lines."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixlm.data.judged import JudgedTask
from mixlm.data.mixture import Mixture
from mixlm.errors import UserError
from mixlm.evaluation.tables import strict, write
from mixlm.evaluation.tasks.judge import Examples, Verdict
from mixlm.recipe import Recipe


def tasks_of(recipe: Recipe) -> list[JudgedTask]:
    """The tasks of the recipe's data that know how they are evaluated; none where its rows are text."""
    if recipe.dataset.pairs is None:
        return []
    parts = recipe.dataset.parts if isinstance(recipe.dataset, Mixture) else (recipe.dataset,)
    return [part.task for part in parts if isinstance(part.task, JudgedTask)]


def examples_of(recipe: Recipe, data: Any, count: int | None) -> list[Examples]:
    """The tasks with metrics that the last rates read, each with `count` validation examples spread evenly (None: all).

    Tasks without metrics are passed over, as seqio does.
    """
    weights = data.shares[-1].weights if getattr(data, "shares", ()) else (1,) * len(data.parts)
    found = []
    for part, weight in zip(data.parts, weights):
        if not weight or not isinstance(part.task, JudgedTask):
            continue
        criteria = part.task.criteria()
        if not criteria.metric_fns:
            continue
        every = list(part.task.judged(data.vocabulary, "validation"))
        if not every:
            raise UserError(f"The task {part.name!r} has no validation examples to be evaluated on.")
        chosen = np.arange(len(every) if count is None else min(count, len(every)))
        spread = chosen * len(every) // max(len(chosen), 1)
        found.append(Examples(part.name, criteria, [every[place] for place in spread]))
    return found


def too_long(tasks: Sequence[Examples], lengths: Mapping[str, int]) -> list[str]:
    """A sentence for each task of which some targets are longer than what is decoded."""
    said = []
    for task in tasks:
        long = sum(len(each.targets) > lengths["targets"] for each in task.examples)
        if long:
            said.append(
                f"{task.name}: {long:,} of {len(task.examples):,} targets are longer than the {lengths['targets']} "
                "tokens of TASK_FEATURE_LENGTHS['targets'], and cannot be said in full."
            )
    return said


def write_records(path: Path, verdict: Verdict) -> None:
    """Writes a line for each example: inputs, targets, output and, after postprocessing, target and prediction."""
    lines = [json.dumps(strict(record), ensure_ascii=False, default=_plain) for record in verdict.records]
    write(path, "".join(f"{line}\n" for line in lines))


def _plain(value: Any) -> Any:
    """The result of a task's own postprocessing, in JSON: arrays as lists, bytes as text, anything else by its repr."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    convert: Callable[[], Any] | None = getattr(value, "tolist", None)
    return repr(value) if convert is None else convert()
