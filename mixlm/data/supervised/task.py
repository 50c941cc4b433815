"""A supervised task as data: its pairs in the vocabulary that a network was pretrained with."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mixlm.data.dataset import Dataset
from mixlm.data.judged import Criteria, Judged
from mixlm.data.mixture import Mixture
from mixlm.data.sources.base import digest
from mixlm.data.sources.tfds import Tfds
from mixlm.data.store.fingerprint_cache import sha256_of
from mixlm.data.store.journal import Tokenized
from mixlm.data.supervised.formats import Format, Pair
from mixlm.data.supervised.records import LocalRecords, Records, TfdsRecords
from mixlm.data.supervised.tasks import task_named
from mixlm.data.vocabulary import Vocabulary
from mixlm.errors import NotHere, UserError
from mixlm.tokens import TokenIds

# To be raised whenever the same records would give other tokens, so that a stale store is not used.
SUPERVISED_VERSION = 1


@dataclass(frozen=True)
class SupervisedTask:
    """The examples of `task`, one of the table by its name or a `Format`, in the vocabulary of `pretraining`.

    Records are those of the folder or file `data`, or without it of TFDS in `data_dir`. Inputs and targets end in EOS.
    With `as_classes` the inputs are the task's texts, each with an EOS behind it and no prefix, and the targets one
    token, `class_token`, for `objectives.classification`. `metric_fns` makes functions of the names of metrics.
    """

    task: str | Format
    pretraining: Dataset | Mixture = field(repr=False)
    data: str | None = field(default=None, repr=False)
    data_dir: str | None = field(default=None, repr=False)
    as_classes: bool = False
    metric_fns: Callable[[tuple[str, ...]], tuple[Callable[..., Any], ...]] | None = field(
        default=None, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.as_classes and not self.format.labels:
            raise UserError(f"The task {self.name!r} has no classes: fine-tune it text to text, without a head.")

    @property
    def format(self) -> Format:
        """The task as the table has it."""
        return task_named(self.task) if isinstance(self.task, str) else self.task

    @property
    def name(self) -> str:
        """The task's name."""
        return self.format.name

    @property
    def source(self) -> Records:
        """The place that the records come from."""
        return source_of(self.format, self.data, self.data_dir)

    def fingerprint(self) -> str:
        """SHA-256 over the records, the form that they are given, and the vocabulary; NotHere where there are none."""
        form, kind = self.format, type(self.format)
        records = of_format(form, self.source)
        own = [] if kind.__module__.startswith("mixlm.") else sha256_of([Path(inspect.getfile(kind))])
        vocabulary = self.pretraining.load_vocabulary().fingerprint
        return digest(SUPERVISED_VERSION, repr(form), own, self.as_classes, records, vocabulary)

    def load_vocabulary(self, cache_dir: Path, log: Callable[[str], object]) -> Vocabulary:
        """The vocabulary of the pretraining data."""
        return self.pretraining.load_vocabulary(log)

    def count(self, split: str) -> int | None:
        """Unknown before the records are read."""
        return None

    def pairs(self, split: str) -> Iterator[Pair]:
        """The examples of a split as text, in the order of their rows in the token store."""
        for where, record in self.source.records(split):
            yield from self.format.pairs(record, split, where)

    def tokenized(self, vocabulary: Vocabulary, split: str, first: int = 0) -> Iterator[Tokenized]:
        """The examples' token ids, inputs and then targets."""
        for pair in islice(self.pairs(split), first, None):
            read, said = self._tokens(pair, vocabulary)
            yield Tokenized(np.asarray([*read, *said], np.int32), len((pair.inputs + pair.targets).encode()), len(read))

    def judged(self, vocabulary: Vocabulary, split: str) -> Iterator[Judged]:
        """The examples of a split in tokens, with their text and the value of their target."""
        for pair in self.pairs(split):
            read, said = self._tokens(pair, vocabulary)
            texts = {"inputs_pretokenized": pair.inputs, "targets_pretokenized": pair.targets}
            yield Judged(read, said, {**texts, "value": pair.value})

    def criteria(self) -> Criteria:
        """The task's metrics, and the values that they compare."""
        named = self.format.metrics
        return Criteria(() if self.metric_fns is None else tuple(self.metric_fns(named)), self._value)

    def _tokens(self, pair: Pair, vocabulary: Vocabulary) -> tuple[list[int], list[int]]:
        """Inputs and targets of an example."""
        ids = vocabulary.token_ids
        texts = pair.parts if self.as_classes else (pair.inputs,)
        read = [token for text in texts for token in (*vocabulary.encode(text), ids.eos)]
        if self.as_classes:
            return read, [class_token(pair.label or 0, ids)]
        return read, [*vocabulary.encode(pair.targets), ids.eos]

    def _value(self, text: str | Sequence[str], example: Mapping[str, Any], is_target: bool = False) -> Any:
        """What metrics compare: of a target its value, of a text or several what the task reads in them."""
        target = example["targets_pretokenized"]
        if is_target:
            return example["value"]
        if not isinstance(text, str):
            return [self._value(each, example) for each in text]
        return self.format.read(self._class_names.get(text, text) if self.as_classes else text, target)

    @cached_property
    def _class_names(self) -> dict[str, str]:
        """The name of the class that each class's token decodes to."""
        vocabulary = self.pretraining.load_vocabulary()
        names = enumerate(self.format.labels)
        return {vocabulary.decode([class_token(number, vocabulary.token_ids)]): name for number, name in names}


def source_of(form: Format, data: str | None, data_dir: str | None) -> Records:
    """The records of a task in the folder or file `data`, or without it those of TFDS in `data_dir`."""
    if data is not None:
        return LocalRecords(data, form.name, form.fields, form.columns, getattr(form, "split_of", None))
    return TfdsRecords(Tfds(form.tfds, validation_split=form.validation, data_dir=data_dir), form.fields)


def of_format(form: Format, records: Records) -> str:
    """SHA-256 of a task's records; NotHere, which says how they are prepared, where there are none."""
    try:
        return records.fingerprint()
    except NotHere:
        listed = ", ".join(form.fields)
        raise NotHere(
            f'The data of {form.name!r} are not here: prepare them once with python -c "import tensorflow_datasets '
            f"as tfds; tfds.builder('{form.tfds}').download_and_prepare()\", or give --gin.DATA=FOLDER with a "
            f"train.tsv or train.jsonl of {listed}."
        ) from None


def class_token(number: Any, ids: TokenIds) -> Any:
    """The token of a class: sentinel `number`, counted from the last token; no network reads it."""
    return ids.vocab_size - 1 - number
