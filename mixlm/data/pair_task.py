"""Supervised pairs of text as a task: inputs, and targets that end with EOS, in the vocabulary of a text of its own."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mixlm.data.judged import Criteria, Judged
from mixlm.data.sources.base import Source, digest
from mixlm.data.store.journal import Tokenized
from mixlm.data.vocabulary import Vocabulary, VocabularySpec
from mixlm.errors import UserError

# To be raised whenever the same pairs would give other tokens, so that a stale store is not used.
PAIRS_VERSION = 1


@runtime_checkable
class PairSource(Protocol):
    """Pairs of inputs and targets as text, split once and for all into train and validation."""

    def pairs(self, split: str) -> Iterator[tuple[str, str]]:
        """The pairs of a split, always in the same order."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over what the pairs depend on."""
        ...


@runtime_checkable
class FeatureSource(PairSource, Protocol):
    """Pairs with further features, such as all answers to a question, which a task's postprocessing reads."""

    def examples(self, split: str) -> Iterator[Mapping[str, Any]]:
        """The features of each pair of a split, in the order of its pairs."""
        ...


@dataclass(frozen=True)
class PairTask:
    """A source of pairs for `pairs` of a dataset; `text` is what the vocabulary is trained on, one for all parts.

    `metric_fns` and `postprocess_fn` are those of `judged.Criteria`: they evaluate, and are no part of the data.
    """

    name: str
    source: PairSource
    vocabulary: VocabularySpec
    text: Source
    metric_fns: tuple[Callable[..., Any], ...] = field(default=(), repr=False, compare=False)
    postprocess_fn: Callable[..., Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.:]+", self.name):
            raise UserError(f"The task's name {self.name!r} may only hold letters, digits, '_', '.' and ':'.")

    def fingerprint(self) -> str:
        """SHA-256 over the pairs and the vocabulary."""
        vocabulary = self.vocabulary.fingerprint(self.text.fingerprint())
        return digest("pairs", PAIRS_VERSION, self.source.fingerprint(), vocabulary)

    def load_vocabulary(self, cache_dir: Path, log: Callable[[str], object]) -> Vocabulary:
        """The vocabulary, trained on the train split of `text` if it has to be."""
        return self.vocabulary.load(lambda: self.text.documents("train"), self.text.fingerprint(), cache_dir, log)

    def count(self, split: str) -> int:
        """The number of pairs."""
        return sum(1 for _ in self.source.pairs(split))

    def tokenized(self, vocabulary: Vocabulary, split: str, first: int = 0) -> Iterator[Tokenized]:
        """The pairs' token ids, inputs and then targets with EOS."""
        for inputs, targets in islice(self.source.pairs(split), first, None):
            read, said = vocabulary.encode(inputs), [*vocabulary.encode(targets), vocabulary.token_ids.eos]
            size = len(inputs.encode()) + len(targets.encode())
            yield Tokenized(np.asarray([*read, *said], np.int32), size, len(read))

    def criteria(self) -> Criteria:
        """The task's metrics and postprocessing."""
        return Criteria(tuple(self.metric_fns), self.postprocess_fn)

    def judged(self, vocabulary: Vocabulary, split: str) -> Iterator[Judged]:
        """The pairs in tokens, each with its text and the source's further features."""
        source = self.source
        features = source.examples(split) if isinstance(source, FeatureSource) else repeat({})
        for (inputs, targets), found in zip(source.pairs(split), features):
            texts = {"inputs_pretokenized": inputs, "targets_pretokenized": targets}
            said = [*vocabulary.encode(targets), vocabulary.token_ids.eos]
            yield Judged(vocabulary.encode(inputs), said, texts | dict(found))
