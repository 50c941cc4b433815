"""Metrics by the names that the table of supervised tasks gives them."""

from collections.abc import Callable, Mapping
from typing import Any

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


def metric_fns(names: tuple[str, ...]) -> tuple[Callable[..., Any], ...]:
    """The metrics of these names; UserError for one that there is not."""
    for name in (name for name in names if name not in NAMED):
        raise UserError(f"There is no metric {name!r}, only {', '.join(NAMED)}.{nearest(name, NAMED)}")
    return tuple(NAMED[name] for name in names)
