"""Metrics by the names that the table of supervised tasks gives them."""

from collections.abc import Callable, Mapping
from typing import Any

from mixlm.data.supervised.task import SupervisedTask
from mixlm.errors import UserError, nearest
from mixlm.evaluation.tasks import metrics
from mixlm.evaluation.tasks.pass_at_k import PassAtK

NAMED: Mapping[str, Callable[..., Any]] = {
    "accuracy": metrics.accuracy,
    "f1": metrics.f1,
    "macro_f1": metrics.macro_f1(3),  # CB's
    "matthews": metrics.matthews,
    "pearson": metrics.pearson,
    "spearman": metrics.spearman,
    "multirc": metrics.multirc,
    "squad": metrics.squad,
    "rouge": metrics.rouge,
    "bleu": metrics.bleu,
    "pass_at_k": PassAtK(),
}
# The figures of those that report others than their name: the first that papers give.
FIGURES = {"macro_f1": "mean_3class_f1", "multirc": "f1", "squad": "f1", "rouge": "rougeLsum", "pass_at_k": "pass@1"}


def metric_fns(names: tuple[str, ...]) -> tuple[Callable[..., Any], ...]:
    """The metrics of these names; UserError for one that there is not."""
    for name in (name for name in names if name not in NAMED):
        raise UserError(f"There is no metric {name!r}, only {', '.join(NAMED)}.{nearest(name, NAMED)}")
    return tuple(NAMED[name] for name in names)


def best_metric(task: SupervisedTask) -> str:
    """The figure of validation by which a task's checkpoints are chosen, that of its first metric: TASK/FIGURE."""
    name = task.format.metrics[0]
    return f"{task.name}/{FIGURES.get(name, name)}"
