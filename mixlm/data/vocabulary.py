"""Definitions of SentencePiece vocabularies: trained once on the task's own text, or an existing model such as T5's."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mixlm import files
from mixlm.data.sentencepiece_training import train
from mixlm.data.sources.base import digest
from mixlm.data.store.file_lock import exclusive
from mixlm.data.vocabularies.base import SPACE, Vocabulary, special_ids
from mixlm.data.vocabularies.sentencepiece import SentencePieceVocabulary
from mixlm.errors import NotHere, UserError, nearest
from mixlm.files import replacing
from mixlm.paths import local
from mixlm.tokens import TokenIds

SENTINEL = rf"{SPACE}?<extra_id_\d+>"
SPECIAL_PIECES = 5  # <pad>, </s>, <unk>, <s>, <mask>
# To be raised whenever a model trained by this code would differ, so that a cached one is not used in its place. 1: the
# characters of `</s>` in a text were passed over.
TRAINING_VERSION = 2

__all__ = [
    "SPACE", "SentencePieceFile", "TrainedSentencePiece", "Vocabulary", "VocabularySpec", "special_ids",
]  # fmt: skip


@runtime_checkable
class VocabularySpec(Protocol):
    """A definition of a vocabulary as a plain value; `load` trains or reads it."""

    def fingerprint(self, text_fingerprint: str) -> str:
        """SHA-256 of everything that the vocabulary depends on, known before it is trained."""
        ...

    def load(
        self,
        documents: Callable[[], Iterable[str]],
        text_fingerprint: str,
        cache_dir: Path,
        log: Callable[[str], object],
    ) -> Vocabulary:
        """The vocabulary; `documents` gives the training text if it has to be trained first."""
        ...


@dataclass(frozen=True)
class TrainedSentencePiece:
    """A SentencePiece model trained on the train split and cached: `<pad>` 0, `</s>` 1, `<unk>` 2, `<s>` 3, `<mask>` 4.

    `vocab_size` counts the sentinels, which are its last ids. Text is normalised as T5's is (`nmt_nfkc`: a line break
    becomes a space). Raises UserError where the text is too small for the size, and names the size that fits.
    """

    vocab_size: int = 8192
    sentinels: int = 100
    model_type: str = "unigram"
    character_coverage: float = 1.0

    def __post_init__(self) -> None:
        if self.model_type not in ("unigram", "bpe"):
            close = nearest(self.model_type, ("unigram", "bpe"))
            raise UserError(f"TrainedSentencePiece.model_type is 'unigram' or 'bpe', not {self.model_type!r}.{close}")
        if not isinstance(self.vocab_size, int):
            raise UserError(f"VOCAB_SIZE is a whole number, not {self.vocab_size!r}.")
        if self.sentinels < 0 or self.vocab_size <= self.sentinels + SPECIAL_PIECES:
            raise UserError(
                f"A vocabulary of {self.vocab_size} ids has no room for pieces beside {self.sentinels} sentinels and"
                f" {SPECIAL_PIECES} special tokens; set VOCAB_SIZE higher."
            )

    @property
    def token_ids(self) -> TokenIds:
        """The special ids of every model trained by this class."""
        return TokenIds(vocab_size=self.vocab_size, mask=4, bos=3, sentinels=self.sentinels)

    def fingerprint(self, text_fingerprint: str) -> str:
        """SHA-256 over the text's fingerprint, the settings and the version of the training."""
        return digest(TRAINING_VERSION, text_fingerprint, asdict(self))

    def load(
        self,
        documents: Callable[[], Iterable[str]],
        text_fingerprint: str,
        cache_dir: Path,
        log: Callable[[str], object],
    ) -> Vocabulary:
        """The cached model, trained first where there is none, or where the cached file is damaged."""
        name = f"{self.model_type}-{self.vocab_size}-{self.fingerprint(text_fingerprint)[:16]}.model"
        path = cache_dir / "vocabularies" / name
        if path.exists():
            with contextlib.suppress(UserError):
                return self._open(path)
            log(f"The cached vocabulary {path} is damaged and is trained again.")

        def waiting() -> None:
            log(f"Another process is training the vocabulary {path}; waiting for it.")

        with exclusive(path.with_name(f".{name}.lock"), waiting):
            if path.exists():
                with contextlib.suppress(UserError):
                    return self._open(path)
            log(f"Training a SentencePiece vocabulary of {self.vocab_size:,} ids (once, cached in {path.parent}).")
            write_atomically(path, train(self, documents()))
            return self._open(path)

    def _open(self, path: Path) -> Vocabulary:
        model = files.read_bytes(path)
        # A truncated model often still parses, so its SHA-256 lies beside it.
        if files.read_text(path.with_suffix(".sha256")) != hashlib.sha256(model).hexdigest():
            raise UserError(f"The vocabulary {path} is damaged.")
        return SentencePieceVocabulary(model, self.token_ids, path)


@dataclass(frozen=True)
class SentencePieceFile:
    """An existing SentencePiece model, such as T5's: 32,000 pieces and 100 sentinels are 32,100 ids.

    The sentinels are added, unless the model holds them itself as its last pieces, `<extra_id_0>` the very last.
    `mask` is the id that replaces a masked token, by default the last sentinel, as T5 has no mask piece. Raises
    UserError where the file is missing or no model, where padding is not id 0, as networks take 0 for padding, and
    where the model holds other sentinels than `sentinels`.
    """

    path: str
    sentinels: int = 100
    mask: int | None = None
    bos: int = 0

    def __post_init__(self) -> None:
        local(self.path, "VOCAB_MODEL")

    def fingerprint(self, text_fingerprint: str) -> str:
        """SHA-256 over the file and the settings; the text does not matter."""
        del text_fingerprint
        content = hashlib.sha256(self._read()).hexdigest()
        return digest(content, self.sentinels, self.mask, self.bos)

    def load(
        self,
        documents: Callable[[], Iterable[str]],
        text_fingerprint: str,
        cache_dir: Path,
        log: Callable[[str], object],
    ) -> Vocabulary:
        """The model of the file; nothing is trained or cached."""
        del documents, text_fingerprint, cache_dir, log
        from sentencepiece import SentencePieceProcessor

        model = self._read()
        try:
            if not model:
                raise RuntimeError  # SentencePiece takes nothing for no argument
            processor = SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise UserError(f"{self.path} is not a SentencePiece model.") from None
        if processor.pad_id() != 0 or processor.eos_id() < 0:
            raise UserError(
                f"The SentencePiece model {self.path} must have its padding at id 0 and an EOS piece, as T5's has"
                f" (its padding is {processor.pad_id()}, its EOS {processor.eos_id()}; -1 means none)."
            )
        pieces = processor.get_piece_size()
        vocab_size = pieces if self._holds_sentinels(processor) else pieces + self.sentinels
        mask = vocab_size - self.sentinels if self.mask is None else self.mask
        ids = TokenIds(
            vocab_size, mask, eos=processor.eos_id(), unk=processor.unk_id(), bos=self.bos, sentinels=self.sentinels
        )
        return SentencePieceVocabulary(model, ids, local(self.path))

    def _holds_sentinels(self, processor: Any) -> bool:
        pieces = range(processor.get_piece_size())
        found = [token for token in pieces if re.fullmatch(SENTINEL, processor.id_to_piece(token))]
        names = [processor.id_to_piece(token).removeprefix(SPACE) for token in reversed(found)]
        wanted = [f"<extra_id_{k}>" for k in range(self.sentinels)]
        if found and (names != wanted or found[0] != len(pieces) - len(found)):
            raise UserError(
                f"The SentencePiece model {self.path} holds {len(found)} sentinels where its {self.sentinels} last"
                " pieces should be them, <extra_id_0> the very last; set SENTINELS."
            )
        return bool(found)

    def _read(self) -> bytes:
        if not self.path:
            raise NotHere("No vocabulary was given: say --gin.VOCAB_MODEL=FILE, a SentencePiece model.")
        path = local(self.path)
        if not os.path.exists(path):
            siblings = [str(path.parent / name) for name in os.listdir(path.parent)] if path.parent.is_dir() else []
            raise UserError(f"There is no SentencePiece model at {self.path!r}.{nearest(str(path), siblings)}")
        return files.read_bytes(path)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a model, and its SHA-256 beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The checksum comes first: whoever sees the model also sees its checksum.
    checksum = hashlib.sha256(content).hexdigest().encode()
    for target, payload in ((path.with_suffix(".sha256"), checksum), (path, content)):
        with replacing(target, "wb") as file:
            file.write(payload)
