"""One figure for whatever task a run was fine-tuned on, so that a study's table has it in one column."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixlm.data.supervised.formats import UNKNOWN
from mixlm.data.supervised.task import SupervisedTask
from mixlm.errors import UserError
from mixlm.evaluation.tasks.examples import tasks_of
from mixlm.evaluation.tasks.named import FIGURES
from mixlm.evaluation.tasks.run import evaluate, prepare, write
from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
from mixlm.recipe import Recipe


@dataclass(frozen=True)
class ClassScore:
    """The first metric of the task of a run with classes, and its yardsticks, on `examples` validation examples.

    Calls with a run's recipe; returns `score`, `majority` (the metric where every example gets the commonest class of
    the training split), `chance` (its mean where classes are drawn evenly: 100 / C of C classes for accuracy, 0 for
    Matthews' correlation), and `unnamed`, the percentage of outputs that name no class. All figures and what was said
    stand in the run's `evaluation/` as well. Raises UserError for a task of another kind.
    """

    examples: int | None = None

    def __call__(self, recipe: Recipe, say: Callable[[str], Any] = lambda line: None) -> dict[str, float]:
        """The figures."""
        task = _task_with_classes(recipe)
        with kept_in(recipe.dataset.cache / EXECUTABLES):
            prepared = prepare(recipe, self.examples, say)
            verdicts = evaluate(prepared)
            write(prepared, verdicts)
        records = verdicts[task.name].records
        said = [record["prediction"] for record in records]
        unnamed = 100 * sum(value == UNKNOWN for value in said) / len(said)
        found = yardsticks(task, [record["target"] for record in records])
        return {"score": verdicts[task.name].figures[first_figure(task)], "unnamed": unnamed, **found}


def first_figure(task: SupervisedTask) -> str:
    """The figure by which a task is judged first."""
    name = task.format.metrics[0]
    return FIGURES.get(name, name)


def yardsticks(task: SupervisedTask, targets: Sequence[Any]) -> dict[str, float]:
    """`majority` and `chance` of a task's first metric on these targets."""
    (commonest, _), *_ = Counter(pair.label for pair in task.pairs("train")).most_common(1)
    metric, figure = task.criteria().metric_fns[0], first_figure(task)
    always: Mapping[str, float] = metric(targets, [commonest] * len(targets))
    return {"majority": float(always[figure]), "chance": 100 / len(task.format.labels) if figure == "accuracy" else 0.0}


def _task_with_classes(recipe: Recipe) -> SupervisedTask:
    """The one task of a recipe; UserError unless its first metric compares classes."""
    found = tasks_of(recipe)
    task = found[0] if len(found) == 1 else None
    if isinstance(task, SupervisedTask) and task.format.labels and task.format.metrics[0] in ("accuracy", "matthews"):
        return task
    names = ", ".join(repr(task.name) for task in found) or "none"
    raise UserError(
        f"ClassScore judges one task with classes by accuracy or Matthews, and the run's tasks are {names}."
    )
