"""What a task is: a named definition of documents of tokens; and the seqio Task of a source of plain text."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mixlm.data.sources.base import SPLITS, TASK_VERSION, Source, digest
from mixlm.data.sources.sotu import SotU
from mixlm.data.sources.text import TextFiles
from mixlm.data.store.journal import Tokenized
from mixlm.data.vocabulary import Vocabulary, VocabularySpec, import_seqio, seqio_vocabulary
from mixlm.errors import UserError

if TYPE_CHECKING:
    import seqio

# Where the sources of plain text are, for who builds a task.
__all__ = ["SPLITS", "SotU", "Source", "Task", "TextFiles", "TextTask"]


@runtime_checkable
class Task(Protocol):
    """A plain value that says what the data is: a name, a vocabulary, and each split's documents as tokens."""

    @property
    def name(self) -> str:
        """The task's name, in logs and folders."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 of everything that the tokens depend on."""
        ...

    def load_vocabulary(self, cache_dir: Path, log: Callable[[str], object]) -> Vocabulary:
        """The vocabulary that the tokens are of."""
        ...

    def tokenized(self, vocabulary: Vocabulary, split: str, first: int = 0) -> Iterator[Tokenized]:
        """The documents of a split from number `first` on, always in the same order."""
        ...

    def count(self, split: str) -> int | None:
        """How many documents a split has, where that can be known before they are tokenised."""
        ...


@dataclass(frozen=True)
class TextTask:
    """A named seqio Task: a source of documents and the vocabulary that turns them into the feature `targets`.

    Documents carry no EOS, since T5's span corruption concatenates them; `add_eos` appends one to each. `add_bos` puts
    the vocabulary's BOS in front of each, so that an objective can tell where documents begin; it must not be padding.
    """

    name: str
    source: Source
    vocabulary: VocabularySpec
    add_eos: bool = False
    add_bos: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.:]+", self.name):
            raise UserError(f"The task's name {self.name!r} may only hold letters, digits, '_', '.' and ':'.")

    def fingerprint(self) -> str:
        """SHA-256 over the text, its split, the vocabulary and the preprocessing; imports no TensorFlow."""
        text = self.source.fingerprint()
        # What a store held before there was a BOS keeps its name.
        begins = ["bos"] if self.add_bos else []
        return digest(TASK_VERSION, text, self.vocabulary.fingerprint(text), self.add_eos, *begins)

    def load_vocabulary(self, cache_dir: Path, log: Callable[[str], object]) -> Vocabulary:
        """The vocabulary, trained on the train split if it has to be."""
        source = self.source
        vocabulary = self.vocabulary.load(lambda: source.documents("train"), source.fingerprint(), cache_dir, log)
        self._check_bos(vocabulary)
        return vocabulary

    def count(self, split: str) -> int:
        """How many documents there are, for which all of the split is read."""
        return sum(1 for _ in self.source.documents(split))

    def tokenized(self, vocabulary: Vocabulary, split: str, first: int = 0) -> Iterator[Tokenized]:
        """The documents through the seqio Task; those before `first` are read, and not tokenised."""
        heard = _Heard(self.source, [])
        task = replace(self, source=heard).seqio_task(vocabulary, first)
        try:
            for example in task.get_dataset(None, split=split, shuffle=False).as_numpy_iterator():
                yield Tokenized(example["targets"], len(example["targets_pretokenized"]))
        except Exception:
            # TensorFlow would say it in its own words.
            if heard.faults:
                raise heard.faults[0] from None
            raise

    def seqio_task(self, vocabulary: Vocabulary, first: int = 0) -> "seqio.Task":
        """The definition of the data as a seqio Task, not registered; imports seqio and TensorFlow.

        Its examples hold `targets` (token ids) and `targets_pretokenized` (UTF-8); they are those of the documents from
        number `first` on. `seqio.TaskRegistry.add_provider` makes it known by name.
        """
        self._check_bos(vocabulary)
        seqio = import_seqio()
        import tensorflow as tf

        def begin(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            bos = tf.constant([vocabulary.token_ids.bos], example["targets"].dtype)
            return {**example, "targets": tf.concat([bos, example["targets"]], axis=0)}

        def begin_all(dataset: tf.data.Dataset) -> tf.data.Dataset:
            return dataset.map(begin, num_parallel_calls=tf.data.AUTOTUNE)

        def dataset_fn(split: str, shuffle_files: bool = False) -> tf.data.Dataset:
            del shuffle_files  # One stream of documents: order is the business of the walk over the store.
            return tf.data.Dataset.from_generator(
                lambda: ({"targets": document} for document in islice(self.source.documents(split), first, None)),
                output_signature={"targets": tf.TensorSpec((), tf.string)},
            )

        begins = [begin_all] if self.add_bos else []
        feature = seqio.Feature(seqio_vocabulary(vocabulary), add_eos=self.add_eos)
        return seqio.Task(
            self.name,
            source=seqio.FunctionDataSource(dataset_fn, splits=SPLITS, caching_permitted=False),
            output_features={"targets": feature},
            preprocessors=[seqio.preprocessors.tokenize, *begins, seqio.preprocessors.append_eos],
        )

    def _check_bos(self, vocabulary: Vocabulary) -> None:
        ids = vocabulary.token_ids
        if self.add_bos and ids.bos == ids.pad:
            raise UserError(f"DOCUMENT_BOS needs a BOS of its own, and this vocabulary's is id {ids.bos}, its padding.")


@dataclass(frozen=True)
class _Heard:
    """A source that notes why it could not be read on."""

    source: Source
    faults: list[Exception]

    def documents(self, split: str) -> Iterator[str]:
        try:
            yield from self.source.documents(split)
        except Exception as error:
            self.faults.append(error)
            raise

    def fingerprint(self) -> str:
        return self.source.fingerprint()
