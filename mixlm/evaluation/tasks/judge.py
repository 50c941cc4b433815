"""A task judged by its own metrics, as seqio's Evaluator does it: decode, postprocess, compare."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mixlm.data.judged import Criteria, Judged
from mixlm.errors import UserError
from mixlm.evaluation.tasks.programs import NotPermitted

PREDICTIONS, SCORES, AUX = ("targets", "predictions"), ("targets", "scores"), ("targets", "predictions", "aux_values")


@runtime_checkable
class Model(Protocol):
    """A trained network as seqio's predict and score functions; see `model.TrainedModel`."""

    def predictions(self, inputs: Sequence[Sequence[int]]) -> list[list[list[int]]]:
        """The texts in tokens that are said for each example's inputs, without EOS."""
        ...

    def scores(self, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> np.ndarray:
        """The log-likelihood of each example's targets given its inputs, in nats."""
        ...


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of a task that are judged, with its metrics."""

    name: str
    criteria: Criteria
    examples: Sequence[Judged]


@dataclass(frozen=True)
class Verdict:
    """Figures by name, a record of each example, and a sentence for each metric that was left out."""

    figures: Mapping[str, float]
    records: Sequence[Mapping[str, Any]]
    left_out: Sequence[str] = field(default=())


def kind_of(metric: Callable[..., Any], task: str) -> tuple[str, ...]:
    """What a metric compares, by its required parameters; UserError where they are none that seqio knows."""
    found = tuple(
        name
        for name, each in inspect.signature(metric).parameters.items()
        if each.default is inspect.Parameter.empty and each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    )
    if found not in (PREDICTIONS, SCORES, AUX):
        raise UserError(
            f"The metric {name_of(metric)} of the task {task!r} has the parameters {found}, and metrics have "
            f"{PREDICTIONS}, {SCORES} or {AUX}."
        )
    return found


def name_of(metric: Callable[..., Any]) -> str:
    """A metric's name in a sentence."""
    return getattr(metric, "__name__", type(metric).__name__)


def judge(task: Examples, model: Model, vocabulary: Any, compares: bool = True) -> Verdict:
    """The figures of a task's metrics; UserError that names the metric which failed, or a name that two of them have.

    Targets are `targets_pretokenized` where the example has it, else the text of its tokens. They and the predictions
    pass `postprocess_fn`, and the metrics get both. With several samples a prediction is the list of their texts. The
    `aux_values` are `{"scores": ...}`, the log-likelihood of each prediction. Without `compares` the network alone is
    called, as in all processes of a run but the first, and nothing is compared.
    """
    kinds = [kind_of(metric, task.name) for metric in task.criteria.metric_fns]
    inputs, targets = [each.inputs for each in task.examples], [each.targets for each in task.examples]
    given: dict[str, Any] = {"targets": _processed(task, [target_text(each, vocabulary) for each in task.examples])}
    records: list[dict[str, Any]] = [
        {
            "inputs": _text(each, "inputs", vocabulary),
            "targets": target_text(each, vocabulary),
            "target": target,
        }
        for each, target in zip(task.examples, given["targets"])
    ]
    if {PREDICTIONS, AUX} & set(kinds):
        said = model.predictions(inputs)
        texts = [[vocabulary.decode(tokens) for tokens in each] for each in said]
        outputs: list[Any] = [each[0] if len(each) == 1 else each for each in texts]
        given["predictions"] = _processed(task, outputs, is_target=False)
        for record, output, prediction in zip(records, outputs, given["predictions"]):
            record |= {"output": output, "prediction": prediction}
        if AUX in kinds:
            given["aux_values"] = {"scores": model.scores(inputs, [_first(each, task.name) for each in said])}
    if SCORES in kinds:
        given["scores"] = model.scores(inputs, targets)
        for record, score in zip(records, given["scores"]):
            record["score"] = float(score)
    figures, left_out = computed(task, given) if compares else ({}, [])
    return Verdict(figures, records, left_out)


def computed(task: Examples, given: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """(Figures by name, sentences of the metrics that may not be computed)."""
    found: dict[str, float] = {}
    left_out = []
    for metric in task.criteria.metric_fns:
        wanted = {name: given[name] for name in kind_of(metric, task.name)}
        try:
            values = dict(metric(**wanted))
        except NotPermitted as reason:
            left_out.append(f"{task.name}: {name_of(metric)} is left out. {reason}")
            continue
        except UserError:
            raise
        except Exception as error:
            why = str(error).strip().partition("\n")[0].rstrip(".") or "no reason given"
            raise UserError(
                f"The metric {name_of(metric)} of the task {task.name!r} failed: {type(error).__name__}: {why}."
            ) from error
        for name, value in _numbers(values):
            if name in found:
                raise UserError(f"Two metrics of the task {task.name!r} report {name!r}, so one would hide the other.")
            found[name] = value
    return found, left_out


def reported(task: Examples, vocabulary: Any) -> list[str] | None:
    """The names of a task's figures, found by comparing a few targets with themselves; None where that fails."""
    few = Examples(task.name, task.criteria, task.examples[:REHEARSED])
    try:
        verdict = judge(few, _Repeats(few.examples), vocabulary)
    except Exception:  # a metric may need more, or other, than these
        return None
    return None if verdict.left_out else list(verdict.figures)


REHEARSED = 16  # Ours: enough that most metrics are defined, and few enough to cost nothing.


@dataclass(frozen=True)
class _Repeats:
    """Says what the targets are."""

    examples: Sequence[Judged]

    def predictions(self, inputs: Sequence[Sequence[int]]) -> list[list[list[int]]]:
        return [[list(each.targets)] for each in self.examples]

    def scores(self, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> np.ndarray:
        return np.zeros(len(inputs))


def target_text(each: Judged, vocabulary: Any) -> str:
    """The text of an example's targets."""
    return _text(each, "targets", vocabulary)


def _text(each: Judged, feature: str, vocabulary: Any) -> str:
    text = each.example.get(f"{feature}_pretokenized")
    if text is None:
        return vocabulary.decode(getattr(each, feature))
    return text.decode("utf-8") if isinstance(text, bytes) else str(text)


def _processed(task: Examples, texts: Sequence[Any], is_target: bool = True) -> list[Any]:
    function = task.criteria.postprocess_fn
    if function is None:
        return list(texts)
    return [function(text, example=each.example, is_target=is_target) for text, each in zip(texts, task.examples)]


def _first(said: Sequence[list[int]], task: str) -> list[int]:
    if len(said) > 1:
        raise UserError(f"A metric of the task {task!r} reads the score of a prediction: leave METRIC_SAMPLES at 1.")
    return said[0]


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers among a metric's values; seqio's texts, images and histograms are for its own loggers."""
    for name, value in values.items():
        value = getattr(value, "value", value)  # seqio.metrics.Scalar
        if isinstance(value, bool | int | float | np.number) or getattr(value, "shape", None) == ():
            yield name, float(value)
