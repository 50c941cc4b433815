"""Evaluation as a supervised task asks for it: metrics, postprocessing, and its examples with all their features."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mixlm.data.vocabulary import Vocabulary
from mixlm.values import check_whole


@dataclass(frozen=True)
class Judged:
    """An example in tokens, as rows hold it but uncut, and all of its features by name, as seqio has them.

    `example` is what `postprocess_fn` gets: `inputs_pretokenized`, `targets_pretokenized`, and others of the task.
    """

    inputs: Sequence[int]
    targets: Sequence[int]
    example: Mapping[str, Any]


@dataclass(frozen=True)
class Criteria:
    """A task's metrics, as functions in seqio's sense, and the function that turns texts into what they compare.

    A metric's required parameters are (targets, predictions), (targets, scores) or (targets, predictions, aux_values),
    and it returns numbers by name. `postprocess_fn(text, example=..., is_target=...)` is called for every target and
    every prediction.
    """

    metric_fns: tuple[Callable[..., Any], ...]
    postprocess_fn: Callable[..., Any] | None = None


@runtime_checkable
class JudgedTask(Protocol):
    """A task of pairs that knows how it is evaluated."""

    name: str

    def criteria(self) -> Criteria:
        """The metrics and the postprocessing."""
        ...

    def judged(self, vocabulary: Vocabulary, split: str) -> Iterator[Judged]:
        """The examples of a split, in the order of its pairs."""
        ...


@dataclass(frozen=True)
class TaskMetrics:
    """Settings by which a run's tasks are evaluated by their own metrics, during training and afterwards.

    `examples` of each task's validation split, spread evenly over it (None: all, 0: no metrics). `decoding` is a
    strategy's name and settings, "autoregressive beams=4"; "" is as trained. `samples` texts for each example, for
    metrics of several (pass@k). Examples are decoded in batches of at most `batch`. A sample's noise is a function of
    `seed`, the example and its number.
    """

    examples: int | None = None
    decoding: str = ""
    samples: int = 1
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.examples is not None:
            check_whole(self, "examples", 0)
        for name, least in (("samples", 1), ("batch", 1), ("seed", 0)):
            check_whole(self, name, least)
