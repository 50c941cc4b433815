"""Tasks judged by what was decoded already, for evaluations that decode in ways of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixlm.evaluation.tasks.examples import tasks_of
from mixlm.evaluation.tasks.judge import PREDICTIONS, Examples, judge, kind_of
from mixlm.recipe import Recipe


def metrics_of(
    recipe: Recipe, vocabulary: Any, parts: Sequence[tuple[str, int]], said: Sequence[Sequence[int]]
) -> dict[str, float]:
    """The figures of each task's metrics of predictions as TASK/METRIC.

    `parts` name each decoded example, its task and its number in the validation split; `said` are its tokens.
    """
    figures: dict[str, float] = {}
    for task in tasks_of(recipe):
        criteria = task.criteria()
        metrics = tuple(each for each in criteria.metric_fns if kind_of(each, task.name) == PREDICTIONS)
        answers = {number: tokens for (name, number), tokens in zip(parts, said) if name == task.name}
        if not metrics or not answers:
            continue
        every = list(task.judged(vocabulary, "validation"))
        examples = Examples(task.name, replace(criteria, metric_fns=metrics), [every[number] for number in answers])
        verdict = judge(examples, _Said(list(answers.values())), vocabulary)
        figures |= {f"{task.name}/{name}": value for name, value in verdict.figures.items()}
    return figures


@dataclass(frozen=True)
class _Said:
    """A model that has been asked already."""

    tokens: Sequence[Sequence[int]]

    def predictions(self, inputs: Sequence[Sequence[int]]) -> list[list[list[int]]]:
        return [[list(each)] for each in self.tokens]

    def scores(self, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> np.ndarray:
        raise AssertionError("metrics of scores are left out")
