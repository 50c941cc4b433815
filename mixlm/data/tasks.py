"""Tasks: named definitions of tokenised documents; TextTask tokenises a source of plain text."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int64

from mixlm.data.notes import note
from mixlm.data.sources.base import SPLITS, Noted, Source, digest
from mixlm.data.sources.sotu import SotU
from mixlm.data.sources.text import TextFiles
from mixlm.data.store.journal import Tokenized
from mixlm.data.vocabulary import Vocabulary, VocabularySpec
from mixlm.errors import UserError

T = TypeVar("T")

# To be raised whenever the same text would give other tokens, so that a stale store is not used. 1: tensorflow-text;
# 2: `<extra_id_0>` in a document was the sentinel.
TOKENIZATION_VERSION = 3
BATCH_CHARACTERS = 2**20  # Ours: enough documents at once for many cores, and some 0.2 s of work for one.

__all__ = ["SPLITS", "SotU", "Source", "Task", "TextFiles", "TextTask"]


@runtime_checkable
class Task(Protocol):
    """A definition of data as a plain value: a name, a vocabulary, and each split's documents as tokens."""

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
        """The number of documents of a split, where that can be known before they are tokenised."""
        ...


class TokenBytes(NamedTuple):
    """One document: its token ids, and how many UTF-8 bytes of the document each covers, 0 for BOS and EOS."""

    tokens: Int64[np.ndarray, " N"]
    sizes: Int64[np.ndarray, " N"]


@runtime_checkable
class CountsBytes(Task, Protocol):
    """A task that knows which bytes of its documents a token covers, for figures per byte."""

    def token_bytes(self, vocabulary: Vocabulary, split: str, numbers: Iterable[int]) -> Iterator[TokenBytes]:
        """The documents of these numbers, which rise, as `tokenized` gives them; ends early where it cannot tell."""
        ...


@dataclass(frozen=True)
class TextTask:
    """A source of plain text, tokenised document by document with a vocabulary.

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
        """SHA-256 over the text, its split, the vocabulary and the tokenisation."""
        text = self.source.fingerprint()
        begins = ["bos"] if self.add_bos else []
        return digest(TOKENIZATION_VERSION, text, self.vocabulary.fingerprint(text), self.add_eos, *begins)

    def load_vocabulary(self, cache_dir: Path, log: Callable[[str], object]) -> Vocabulary:
        """The vocabulary, trained on the train split if it has to be; `log` is told what the source leaves out."""
        source = self.source
        for left_out in source.notes() if isinstance(source, Noted) else ():
            note(log, left_out)
        vocabulary = self.vocabulary.load(lambda: source.documents("train"), source.fingerprint(), cache_dir, log)
        self._check_bos(vocabulary)
        return vocabulary

    def count(self, split: str) -> int:
        """The number of documents, for which the whole split is read."""
        return sum(1 for _ in self.source.documents(split))

    def tokenized(self, vocabulary: Vocabulary, split: str, first: int = 0) -> Iterator[Tokenized]:
        """The documents' token ids, with BOS and EOS where asked for; documents before `first` are only read."""
        self._check_bos(vocabulary)
        ids = vocabulary.token_ids
        begin, end = [ids.bos] * self.add_bos, [ids.eos] * self.add_eos
        for batch in _batches(islice(self.source.documents(split), first, None)):
            for document, tokens in zip(batch, vocabulary.encode_batch(batch)):
                yield Tokenized(np.asarray([*begin, *tokens, *end], np.int32), len(document.encode()))

    def token_bytes(self, vocabulary: Vocabulary, split: str, numbers: Iterable[int]) -> Iterator[TokenBytes]:
        """The documents of these numbers, which rise, as `tokenized` gives them, with the bytes of each token."""
        begin, end = [vocabulary.token_ids.bos] * self.add_bos, [vocabulary.token_ids.eos] * self.add_eos
        for document in at_numbers(self.source.documents(split), numbers):
            tokens, sizes = vocabulary.encode_with_bytes(document)
            yield TokenBytes(
                np.asarray([*begin, *tokens, *end], np.int64),
                np.asarray([*(0 for _ in begin), *sizes, *(0 for _ in end)], np.int64),
            )

    def words(self, split: str) -> Iterator[int]:
        """The number of words of each document, as whitespace parts them."""
        return (len(document.split()) for document in self.source.documents(split))

    def _check_bos(self, vocabulary: Vocabulary) -> None:
        ids = vocabulary.token_ids
        if self.add_bos and ids.bos == ids.pad:
            raise UserError(f"DOCUMENT_BOS needs a BOS of its own, and this vocabulary's is id {ids.bos}, its padding.")


def at_numbers(items: Iterable[T], numbers: Iterable[int]) -> Iterator[T]:
    """The items of these numbers, which rise; nothing after the last of them is read."""
    rest, place = iter(items), 0
    for number in numbers:
        found = list(islice(rest, number - place, number - place + 1))
        if not found:
            return
        yield found[0]
        place = number + 1


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Groups of documents of at least BATCH_CHARACTERS, but for the last group."""
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
