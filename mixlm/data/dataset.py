"""A dataset: a task, its vocabulary and token store, and the blocks that training and validation read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from mixlm.data.copies import copies_in
from mixlm.data.loader.epochs import Repeated, sequential, unique_documents
from mixlm.data.loader.pairs import PLAIN_TEXT, Pairs, check_lengths, held_out, in_order, kept_offsets, members_of_rows
from mixlm.data.loader.streaming import CAVEAT, StreamedData
from mixlm.data.notes import note
from mixlm.data.sources.base import digest
from mixlm.data.store.cache import cache_folder
from mixlm.data.store.fingerprint_cache import caching_in, load_record, save_record
from mixlm.data.store.token_store import Documents, Tokenized, TokenStore, open_or_build
from mixlm.data.tasks import SPLITS, Task, TextTask
from mixlm.data.token_bytes import bytes_of_blocks
from mixlm.data.vocabulary import Vocabulary
from mixlm.data.words import words_in
from mixlm.errors import UserError

COUNTED = 2**28  # Ours: frequencies of a long text are known well enough by then.
# To be raised whenever the bytes of a token would be counted otherwise, so that a stale record is not used.
BYTES_VERSION = 1
CACHED_TOKENS = 2**20  # Ours: some 3 MB; who scores more waits for the scores rather than for the text.
LOOKED_AT = 2**24  # Ours: read in some 20 ms, and a vocabulary that does not fit the text shows by then.


@dataclass(frozen=True)
class Summary:
    """Statistics of prepared data; documents, tokens and text bytes are counted per split."""

    name: str
    documents: Mapping[str, int]
    tokens: Mapping[str, int]
    text_bytes: Mapping[str, int]
    unique_documents: int
    unique_tokens: int
    vocab_size: int
    fingerprint: str


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A task whose vocabulary and tokens lie on the disk; with `pairs`, feature lengths, a row is a pair.

    `task` can read the text once more, for the bytes that tokens cover.
    """

    name: str
    vocabulary: Vocabulary
    store: TokenStore
    unique_tokens: int | None = None
    pairs: Mapping[str, int] | None = None
    task: Task | None = None
    packed: bool = False

    def train(self, block_length: int, seed: int, epochs: int | None = None) -> Repeated | Pairs:
        """The unique set of the train split in blocks, epoch after epoch: without end, or so many and then padding."""
        if self.pairs is not None:
            return Pairs(self.store.split("train"), self.pairs, seed, self.unique_tokens, epochs, self.packed)
        return Repeated(self.store.split("train"), block_length, seed, self.unique_tokens, epochs)

    def rows_of(self, block_length: int, epochs: int | None) -> int | None:
        """The number of blocks of `epochs` epochs, the last one padded; None where they are not given."""
        if epochs is None or self.pairs is not None:
            return None if epochs is None else epochs * self.rows_of_pairs
        return -(-epochs * self.summary.unique_tokens // block_length)

    @cached_property
    def rows_of_pairs(self) -> int:
        """The rows of one epoch of pairs: one for each, fewer where rows are packed."""
        if not self.packed or self.pairs is None:
            return self.summary.unique_documents
        split = self.store.split("train")
        documents = unique_documents(kept_offsets(split, self.pairs), self.unique_tokens)
        return len(members_of_rows(split, self.pairs, documents, True)[1]) - 1

    @property
    def parts(self) -> tuple["PreparedData", ...]:
        """The sources: this one."""
        return (self,)

    def validation_size(self, block_length: int) -> int:
        """The number of blocks of the validation split."""
        if self.pairs is not None:
            return held_out(self.store.split("validation"), self.pairs)
        return len(self.validation(block_length))

    def validation_rows(self, block_length: int, count: int, before: int = 0) -> Int32[np.ndarray, "count L"]:
        """`count` blocks, spread evenly over the validation split; blocks of a small split are repeated.

        With `before` 1 a first column holds the token before each block of text, 0 where there is none.
        """
        if self.pairs is not None:
            split = self.store.split("validation")
            rows = in_order(split, self.pairs, _spread(held_out(split, self.pairs), count))
            return np.pad(rows, ((0, 0), (before, 0)))
        blocks = sequential(self.store.split("validation"), block_length, before)
        return blocks[_spread(len(blocks), count)]

    def validation_bytes(self, block_length: int, count: int) -> Int32[np.ndarray, "count L"] | None:
        """The bytes of text that each token of `validation_rows` covers; None where the task cannot tell."""
        if self.task is None or self.pairs is not None:
            return None
        # To find its documents, a source may have to read its whole text.
        facts = (self.store.manifest["fingerprint"], self.vocabulary.fingerprint, block_length, count)
        key = digest("bytes of tokens", BYTES_VERSION, *facts)
        record = load_record(key)
        if record is not None and np.shape(record) == (count, block_length):
            return np.asarray(record, np.int32)
        split = self.store.split("validation")
        blocks = _spread(len(sequential(split, block_length)), count)
        sizes = bytes_of_blocks(self.task, self.vocabulary, "validation", split, blocks, block_length)
        if sizes is not None and sizes.size <= CACHED_TOKENS:
            save_record(key, sizes.tolist())
        return sizes

    def validation(self, block_length: int) -> Int32[np.ndarray, "blocks L"]:
        """The validation split in its own order, in blocks."""
        if self.pairs is not None:
            split = self.store.split("validation")
            return in_order(split, self.pairs, np.arange(held_out(split, self.pairs)))
        return sequential(self.store.split("validation"), block_length)

    def token_counts(self) -> Int64[np.ndarray, " V"]:
        """The frequency of each token in the train split, or in the first COUNTED tokens of a longer one."""
        tokens = self.store.split("train").tokens[:COUNTED]
        size = self.vocabulary.token_ids.vocab_size
        parts = (tokens[start : start + 2**24] for start in range(0, len(tokens), 2**24))
        return sum((np.bincount(part, minlength=size) for part in parts), start=np.zeros(size, np.int64))

    def unknown_share(self) -> float:
        """The share of unknown tokens in the train split, or in the first LOOKED_AT tokens of a longer one."""
        tokens = self.store.split("train").tokens[:LOOKED_AT]
        return float(np.mean(tokens == self.vocabulary.token_ids.unk)) if len(tokens) else 0.0

    @cached_property
    def words(self) -> int:
        """The words of the unique set; UserError where the task has no plain text."""
        documents = unique_documents(self.store.split("train").offsets, self.unique_tokens)
        return words_in(self.task, documents, self.store.manifest["fingerprint"])

    @cached_property
    def summary(self) -> Summary:
        """The counts of documents and tokens, and the fingerprint of text and vocabulary."""
        splits = {name: self.store.split(name) for name in SPLITS}
        offsets = splits["train"].offsets if self.pairs is None else kept_offsets(splits["train"], self.pairs)
        unique = unique_documents(offsets, self.unique_tokens)
        return Summary(
            name=self.name,
            documents={name: split.num_documents for name, split in splits.items()},
            tokens={name: split.num_tokens for name, split in splits.items()},
            text_bytes={name: split.text_bytes for name, split in splits.items()},
            unique_documents=len(unique),
            unique_tokens=int(np.diff(offsets)[unique].sum()),
            vocab_size=self.vocabulary.token_ids.vocab_size,
            fingerprint=self.store.manifest["fingerprint"],
        )


@dataclass(frozen=True)
class Dataset:
    """A task to train on, cut to its unique set of at most `unique_tokens` tokens in whole documents.

    Vocabulary and tokens are cached in `cache_dir`, by default `$MIXLM_CACHE` or `~/.cache/mixlm`. With `stream` no
    tokens are: the text is tokenised as it is read, for a corpus too large to store, with what `StreamedData` says.
    With `pairs`, feature lengths, a row is one supervised example, inputs and targets (see `Pairs`), or with `packed`
    as many as fit.
    """

    task: Task
    unique_tokens: int | None = None
    cache_dir: str | None = field(default=None, repr=False, compare=False)  # where, not what
    stream: bool = field(default=False, repr=False)  # its data have a fingerprint of their own
    pairs: Mapping[str, int] | None = field(default=None, repr=False)  # theirs, too
    packed: bool = field(default=False, repr=False)  # the objective's identity has it

    def __post_init__(self) -> None:
        _ = self.cache  # A URL is refused before anything is written.
        if not isinstance(self.unique_tokens, int | None) or (
            self.unique_tokens is not None and self.unique_tokens < 1
        ):
            raise UserError(f"UNIQUE_TOKENS is a whole number of tokens above 0, or None, not {self.unique_tokens!r}.")
        if self.stream and self.unique_tokens is not None:
            raise UserError("UNIQUE_TOKENS needs a token store, and STREAM = True makes none: give one of them.")
        if self.pairs is None and self.packed:
            raise UserError("PACKED rows hold pairs of inputs and targets, and these data are text.")
        if self.pairs is None:
            return
        check_lengths(self.pairs)
        if self.stream:
            raise UserError("Pairs of inputs and targets need a token store, and STREAM = True makes none.")
        if isinstance(self.task, TextTask):
            raise UserError(f"The task {self.task.name!r} is plain text: {PLAIN_TEXT}.")

    @property
    def cache(self) -> Path:
        """The folder of all that is made once."""
        return cache_folder(self.cache_dir)

    def load_vocabulary(self, log: Callable[[str], object] = print) -> Vocabulary:
        """The task's vocabulary, made where it is not cached; the tokens are not read."""
        with caching_in(self.cache / "fingerprints"), self._writing():
            return self.task.load_vocabulary(self.cache, log)

    def prepare(self, log: Callable[[str], object] = print) -> PreparedData | StreamedData:
        """Opens the vocabulary and the token store, or makes them where they are not cached."""
        return self._streamed(log) if self.stream else self.stored(log)

    def stored(self, log: Callable[[str], object] = print) -> PreparedData:
        """The task with its vocabulary and its token store."""
        with caching_in(self.cache / "fingerprints"):
            fingerprint = self.task.fingerprint()
            with self._writing():
                vocabulary = self.task.load_vocabulary(self.cache, log)
                store = open_or_build(
                    self.cache / "stores" / f"{self.task.name.replace(':', '_')}-{fingerprint[:16]}",
                    lambda: tokenized(self.task, vocabulary, log),
                    vocabulary.token_ids.vocab_size,
                    fingerprint,
                    vocabulary.fingerprint,
                    log,
                )
            note(log, copies_in(self.task.name, store))
        prepared = PreparedData(
            self.task.name, vocabulary, store, self.unique_tokens, self.pairs, self.task, self.packed
        )
        _ = prepared.summary  # A budget that holds no document fails here, before anything else is built.
        return prepared

    def _streamed(self, log: Callable[[str], object]) -> StreamedData:
        with caching_in(self.cache / "fingerprints"):
            fingerprint = self.task.fingerprint()
            with self._writing():
                vocabulary = self.task.load_vocabulary(self.cache, log)
        note(log, f"Streaming {self.task.name}: {CAVEAT}.")
        return StreamedData(self.task, vocabulary, fingerprint)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns an OSError into a sentence about the cache folder."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"The cache folder {self.cache} cannot be used ({reason}); name another in MIXLM_CACHE."
            ) from None


def _spread(size: int, count: int) -> Int64[np.ndarray, " count"]:
    return np.floor(np.arange(count) * (size / count)).astype(np.int64)


def tokenized(task: Task, vocabulary: Vocabulary, log: Callable[[str], object]) -> dict[str, Documents]:
    """Each split's documents from a number on, with a progress bar where a terminal watches."""
    log(f"Tokenising {task.name} (once).")
    return {split: partial(_tokenized_split, task, vocabulary, split) for split in SPLITS}


def _tokenized_split(task: Task, vocabulary: Vocabulary, split: str, first: int) -> Iterator[Tokenized]:
    from tqdm import tqdm

    documents, total = task.tokenized(vocabulary, split, first), task.count(split)
    yield from tqdm(documents, initial=first, total=total, desc=f"{task.name} {split}", unit="doc", disable=None)
