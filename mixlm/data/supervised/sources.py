"""Supervised tasks as sources of pairs for mixtures: their examples, and their texts cut in two for pretraining."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mixlm.data.pair_task import PairSource
from mixlm.data.sources.base import digest
from mixlm.data.supervised.records import Record, Records
from mixlm.data.supervised.task import of_format, source_of
from mixlm.data.supervised.tasks import task_named

Pair = tuple[str, str]


@dataclass(frozen=True)
class Examples:
    """The examples of a task of the table whose record's fields have at most `longest` words each (None: all).

    Records are those of the folder `data`, or without it of TensorFlow Datasets in `data_dir`.
    """

    task: str
    data: str | None = field(default=None, repr=False)
    data_dir: str | None = field(default=None, repr=False)
    longest: int | None = None

    @property
    def records(self) -> Records:
        """The place that the records come from."""
        return source_of(task_named(self.task), self.data, self.data_dir)

    def chosen(self, split: str) -> Iterator[tuple[str, Record]]:
        """The records of a split that are short enough, each after its place."""
        fields = task_named(self.task).fields
        for where, record in self.records.records(split):
            if self.longest is None or all(len(str(record[name]).split()) <= self.longest for name in fields):
                yield where, record

    def pairs(self, split: str) -> Iterator[Pair]:
        """Inputs and targets as text."""
        form = task_named(self.task)
        for where, record in self.chosen(split):
            yield from ((each.inputs, each.targets) for each in form.pairs(record, split, where))

    def fingerprint(self) -> str:
        """SHA-256 over the records, the form and the limit."""
        form = task_named(self.task)
        return digest("examples", repr(form), of_format(form, self.records), self.longest)


@dataclass(frozen=True)
class Continuations(Examples):
    """Every field of these records as a pair of its own, cut in the middle of its words."""

    def pairs(self, split: str) -> Iterator[Pair]:
        """Beginnings and what follows; a text of one word is left out."""
        for _, record in self.chosen(split):
            for name in task_named(self.task).fields:
                words = str(record[name]).split()
                middle = len(words) // 2
                if middle:
                    yield " ".join(words[:middle]), " ".join(words[middle:])

    def fingerprint(self) -> str:
        """SHA-256 over the records and the limit."""
        return digest("continuations", super().fingerprint())


@dataclass(frozen=True)
class TextOfPairs:
    """The pairs of several sources as text, inputs and targets in a line: what one vocabulary is trained on."""

    sources: Sequence[PairSource]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))  # gin writes lists

    def documents(self, split: str) -> Iterator[str]:
        """The pairs of a split, source after source."""
        for source in self.sources:
            yield from (f"{inputs} {targets}" for inputs, targets in source.pairs(split))

    def fingerprint(self) -> str:
        """SHA-256 over what the sources depend on."""
        return digest("text of pairs", [source.fingerprint() for source in self.sources])
