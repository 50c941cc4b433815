"""Mixtures: several tasks under one vocabulary, with rates or epochs that say how much of each is read."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mixlm.data.copies import shared_by_parts
from mixlm.data.dataset import Dataset, PreparedData
from mixlm.data.loader.rates import shares_of
from mixlm.data.notes import note
from mixlm.data.prepared_mixture import PreparedMixture
from mixlm.data.shared_vocabulary import SharedVocabulary
from mixlm.data.sources.auto import Text
from mixlm.data.store.cache import cache_folder
from mixlm.data.store.fingerprint_cache import caching_in
from mixlm.data.tasks import Task, TextTask
from mixlm.data.vocabulary import Vocabulary
from mixlm.errors import UserError
from mixlm.files import MAX_LINE_BYTES


@dataclass(frozen=True)
class Part:
    """One source of a mixture: a task, cut to at most `unique_tokens` tokens in whole documents.

    `epochs` is how often a run reads the set, where the mixture has no rates.
    """

    task: Task
    unique_tokens: int | None = None
    epochs: int | None = None


@runtime_checkable
class MarksDocuments(Task, Protocol):
    """A task that says whether its documents begin with BOS."""

    add_bos: bool


def _check_same(name: str, values: Mapping[str, object]) -> None:
    """Raises UserError where two parts, given by their names, have different values."""
    first = next(iter(values), "")
    for part, value in values.items():
        if value != values[first]:
            raise UserError(f"The parts {first!r} and {part!r} differ in their {name}: one serves all.")


@dataclass(frozen=True)
class Mixture:
    """Several parts whose rows are mixed by `rates`, or as their epochs ask where every part has them.

    `rates` is a number for each part (of any scale), or a tuple of such tuples that hold from the steps `starts` on.
    One vocabulary serves all: trained on the parts' text in proportion to its size, or read from a file. Validation and
    the frequencies of tokens mix the parts by the last rates. With `pairs`, feature lengths, the rows of every part are
    supervised examples (see `mixlm.data.loader.pairs`). Raises UserError for rates that contradict the parts, and
    for parts that share a name, or differ in their vocabulary or in BOS.
    """

    parts: tuple[Part, ...]
    rates: tuple[float, ...] | tuple[tuple[float, ...], ...] | None = None
    starts: tuple[int, ...] = (0,)
    cache_dir: str | None = field(default=None, repr=False, compare=False)  # where, not what
    pairs: Mapping[str, int] | None = field(default=None, repr=False)  # such data have a fingerprint of their own

    def __post_init__(self) -> None:
        _ = self.cache  # A URL is refused before anything is written.
        object.__setattr__(self, "parts", tuple(self.parts))  # gin writes lists
        if not self.parts:
            raise UserError("A mixture needs texts: say --gin.TEXTS=\"('FILE_OR_FOLDER', 'FILE_OR_FOLDER')\".")
        for name in (name for name in self.names if self.names.count(name) > 1):
            raise UserError(f"Two parts of the mixture are named {name!r}, so their figures could not be told apart.")
        texts = [part.task for part in self.parts if isinstance(part.task, TextTask)]
        _check_same("vocabulary", {task.name: task.vocabulary for task in texts})
        marked = [part.task for part in self.parts if isinstance(part.task, MarksDocuments)]
        _check_same("DOCUMENT_BOS", {task.name: task.add_bos for task in marked})
        for part in self.parts:
            _ = Dataset(part.task, part.unique_tokens, pairs=self.pairs)  # it knows what it refuses
        self._check_rates()

    def _check_rates(self) -> None:
        epochs = [part.epochs for part in self.parts]
        for count in (count for count in epochs if count is not None):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise UserError(f"EPOCHS must be whole numbers above 0, got {count!r}.")
        if self.rates is None:
            if None in epochs:
                raise UserError("A mixture needs RATES, or EPOCHS for every one of its parts.")
            if self.starts != (0,):
                raise UserError(
                    f"RATE_STARTS = {self.starts} needs RATES: rates that follow from EPOCHS do not change."
                )
            return
        if epochs != [None] * len(epochs):
            raise UserError("RATES and EPOCHS both say how much of each part is read: give one of them.")
        for stage in self.stages:
            if len(stage) != len(self.parts):
                raise UserError(f"RATES = {stage} must have {len(self.parts)} numbers, one for each part.")
            shares_of(stage)
        starts = list(self.starts)
        if len(starts) != len(self.stages) or starts[0] != 0 or starts != sorted(set(starts)):
            raise UserError(
                f"RATE_STARTS = {self.starts} must be {len(self.stages)} rising steps from 0 on, one for each of RATES."
            )

    @property
    def names(self) -> list[str]:
        """The parts' names, those of their tasks."""
        return [part.task.name for part in self.parts]

    @property
    def stages(self) -> list[tuple[float, ...]]:
        """The rates of each stage; none where they follow from epochs."""
        if self.rates is None:
            return []
        alone = [rates for rates in self.rates if isinstance(rates, int | float)]
        return [tuple(alone)] if alone else [tuple(rates) for rates in self.rates if isinstance(rates, tuple | list)]

    @property
    def epochs(self) -> tuple[int, ...] | None:
        """The epochs of each part, None where there are rates."""
        epochs = tuple(part.epochs for part in self.parts if part.epochs is not None)
        return epochs or None

    @property
    def cache(self) -> Path:
        """The folder of all that is made once."""
        return cache_folder(self.cache_dir)

    def load_vocabulary(self, log: Callable[[str], object] = print) -> Vocabulary:
        """The one vocabulary of all parts, made where it is not cached; the tokens are not read."""
        with caching_in(self.cache / "fingerprints"):
            return self._tasks()[0].load_vocabulary(self.cache, log)

    def prepare(self, log: Callable[[str], object] = print) -> PreparedMixture:
        """Opens or makes the vocabulary and the store of every part; UserError that names the part at fault."""
        with caching_in(self.cache / "fingerprints"):
            tasks = self._tasks()
        prepared: list[PreparedData] = []
        for part, task in zip(self.parts, tasks):
            try:
                prepared.append(Dataset(task, part.unique_tokens, self.cache_dir, pairs=self.pairs).stored(log))
            except UserError as error:
                raise type(error)(f"{task.name}: {error}") from None
            if prepared[-1].vocabulary.fingerprint != prepared[0].vocabulary.fingerprint:
                raise UserError(
                    f"The parts {prepared[0].name!r} and {task.name!r} differ in their vocabulary: one serves all."
                )
        with caching_in(self.cache / "fingerprints"):
            note(log, shared_by_parts([(part.name, part.store) for part in prepared]))
        return PreparedMixture(tuple(prepared), self.epochs, tuple(map(shares_of, self.stages)), self.starts)

    def _tasks(self) -> list[Task]:
        """The parts' tasks; those of plain text share one vocabulary, the others bring their own."""
        texts = [part.task for part in self.parts if isinstance(part.task, TextTask)]
        if not texts:
            return [part.task for part in self.parts]
        shared = SharedVocabulary(texts[0].vocabulary, tuple(task.source for task in texts))
        _ = shared.fingerprint("")  # Text that is missing names its own path.
        tasks = (part.task for part in self.parts)
        return [replace(task, vocabulary=shared) if isinstance(task, TextTask) else task for task in tasks]


def of_texts(
    texts: tuple[str, ...],
    task: Callable[..., Any],
    unique_tokens: int | tuple[int | None, ...] | None = None,
    epochs: int | tuple[int, ...] | None = None,
    feature: str = "text",
    validation_fraction: float = 0.05,
    hold_out_by: str = "content",
    max_document_bytes: int = MAX_LINE_BYTES,
) -> tuple[Part, ...]:
    """A part for each file or folder, by its name; one number of unique tokens or epochs holds for every part.

    `task` makes a TextTask of a name and a source, which is a `Text` with the last four arguments.
    """
    budgets = one_each("UNIQUE_TOKENS", unique_tokens, len(texts), "TEXTS")
    counts = one_each("EPOCHS", epochs, len(texts), "TEXTS")
    names: list[str] = []
    for text in texts:
        name = re.sub(r"\W", "_", Path(text).name.split(".")[0]) or "text"
        taken = sum(re.fullmatch(rf"{name}(_\d+)?", other) is not None for other in names)
        names.append(f"{name}_{taken + 1}" if taken else name)
    sources = [Text(text, feature, validation_fraction, hold_out_by, max_document_bytes) for text in texts]
    return tuple(
        Part(task(name=name, source=source), budget, count)
        for name, source, budget, count in zip(names, sources, budgets, counts)
    )


def one_each(macro: str, given: Any, count: int, of: str) -> tuple[Any, ...]:
    """A value for each of `count` parts: the entries of a tuple, or the same one; UserError for another number."""
    values = tuple(given) if isinstance(given, tuple | list) else (given,) * count
    if len(values) != count:
        raise UserError(f"{macro} = {values} must be one number, or {count}: one for each of {of}.")
    return values
