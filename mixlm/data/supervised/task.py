"""A supervised task as data: its pairs in the vocabulary that a network was pretrained with."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from mixlm.data.dataset import Dataset
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

# To be raised whenever the same records would give other tokens, so that a stale store is not used.
SUPERVISED_VERSION = 1
FIRST_CLASS = 5  # Ours: the token of class 0, above the special ones; a network never reads it.


@dataclass(frozen=True)
class SupervisedTask:
    """The examples of `task`, one of the table by its name or a `Format`, in the vocabulary of `pretraining`.

    Records are those of the folder or file `data`, or without it of TFDS in `data_dir`. Inputs and targets end in EOS.
    With `as_classes` the inputs are the task's texts, each with an EOS behind it and no prefix, and the targets one
    token, FIRST_CLASS + the class, for `objectives.classification`.
    """

    task: str | Format
    pretraining: Dataset | Mixture = field(repr=False)
    data: str | None = field(default=None, repr=False)
    data_dir: str | None = field(default=None, repr=False)
    as_classes: bool = False

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
        """Where the records come from."""
        form = self.format
        if self.data is not None:
            return LocalRecords(self.data, form.name, form.fields, form.columns, getattr(form, "split_of", None))
        return TfdsRecords(Tfds(form.tfds, validation_split=form.validation, data_dir=self.data_dir), form.fields)

    def fingerprint(self) -> str:
        """SHA-256 over the records, the form that they are given, and the vocabulary; NotHere where there are none."""
        form, kind = self.format, type(self.format)
        try:
            records = self.source.fingerprint()
        except NotHere:
            listed = ", ".join(form.fields)
            raise NotHere(
                f"The data of {form.name!r} are not here: prepare them once with python -c \"import tensorflow_datasets "
                f"as tfds; tfds.builder('{form.tfds}').download_and_prepare()\", or give --gin.DATA=FOLDER with a "
                f"train.tsv or train.jsonl of {listed}."
            ) from None
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
        eos = vocabulary.token_ids.eos
        for pair in islice(self.pairs(split), first, None):
            texts = pair.parts if self.as_classes else (pair.inputs,)
            read = [token for text in texts for token in (*vocabulary.encode(text), eos)]
            said = [FIRST_CLASS + (pair.label or 0)] if self.as_classes else [*vocabulary.encode(pair.targets), eos]
            size = sum(len(text.encode()) for text in (*texts, pair.targets))
            yield Tokenized(np.asarray([*read, *said], np.int32), size, len(read))
