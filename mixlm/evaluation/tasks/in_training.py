"""Metrics of a run's tasks while it trains: validation figures, and the records of each validated step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixlm.evaluation.tasks.examples import examples_of, tasks_of, write_records
from mixlm.evaluation.tasks.judge import Examples, judge, reported
from mixlm.evaluation.tasks.model import TrainedModel, networks
from mixlm.evaluation.tasks.run import figures_of, file_of
from mixlm.parallel.logical_axes import Layout
from mixlm.parallel.processes import broadcast, is_main
from mixlm.paths import make_within
from mixlm.recipe import Recipe

PREDICTIONS = "predictions"  # the run's folder of records, with a folder for each step


def is_judged(recipe: Recipe) -> bool:
    """True where validation has figures of tasks; may import what registers a Task."""
    return recipe.metrics.examples != 0 and any(task.criteria().metric_fns for task in tasks_of(recipe))


def check_settings(recipe: Recipe) -> None:
    """Raises UserError for settings that the recipe's decoding does not have."""
    if recipe.metrics.examples != 0 and tasks_of(recipe):
        networks(recipe, recipe.metrics)


@dataclass(frozen=True, eq=False)
class RunJudge:
    """The tasks of a run, and where it is computed."""

    recipe: Recipe
    layout: Layout
    vocabulary: Any
    tasks: Sequence[Examples]

    @classmethod
    def of(cls, recipe: Recipe, layout: Layout, data: Any) -> "RunJudge":
        """Reads the examples."""
        return cls(recipe, layout, data.vocabulary, examples_of(recipe, data, recipe.metrics.examples))

    def names(self) -> list[str] | None:
        """The names of all figures, as far as they can be told before there is a network; None where they cannot."""
        found = [(task.name, reported(task, self.vocabulary)) for task in self.tasks]
        if any(names is None for _, names in found):
            return None
        return [f"{task}/{name}" for task, names in found for name in names or ()]

    def __call__(self, params: Mapping[str, Any], step: int) -> dict[str, float]:
        """The figures as TASK/METRIC, those that are finite; all processes call it, and the first one writes."""
        model = TrainedModel(self.recipe, params, self.recipe.metrics, self.layout)
        verdicts = {task.name: judge(task, model, self.vocabulary, is_main()) for task in self.tasks}
        if is_main():
            folder = make_within(self.recipe.folder, f"{PREDICTIONS}/step_{step}")
            for task, verdict in verdicts.items():
                write_records(folder / file_of(task), verdict)
        # Metrics may draw at random, or run programs: those of process 0 stand.
        found = broadcast(lambda: figures_of(verdicts))
        return {name: value for name, value in found.items() if math.isfinite(value)}
