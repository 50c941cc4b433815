"""A vocabulary from a file, whose kind and special ids its content says."""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mixlm import files
from mixlm.data.plain_text import parse_model
from mixlm.data.sources.base import digest
from mixlm.data.vocabularies import byte, sentencepiece, tokenizer_json
from mixlm.data.vocabularies.base import Vocabulary
from mixlm.data.vocabularies.special_tokens import Layout, layout
from mixlm.errors import NotHere, UserError, nearest
from mixlm.paths import local
from mixlm.tokens import TokenIds

BYTES, BYT5 = "bytes", "byt5"
ROUNDED_TO = 128  # T5 rounds the rows of its embedding up to a multiple of 128, which a TPU's tiles divide


@dataclass(frozen=True)
class GivenVocabulary:
    """A SentencePiece model, a `tokenizer.json`, or "bytes": `path` alone says which, and what its special ids are.

    "byt5" is bytes with padding for BOS, as ByT5's decoder begins. Special tokens are those that the file names, and
    what it lacks is appended behind its ids, at last `sentinels` sentinels where it has none (see
    `special_tokens.layout`). Raises UserError for a file of no such kind.
    """

    path: str = field(repr=False)  # the fingerprint covers its content
    sentinels: int = 100

    def __post_init__(self) -> None:
        if self.path not in (BYTES, BYT5):
            local(self.path, "VOCAB_MODEL")
        if not 0 <= self.sentinels <= 10_000:
            raise UserError(f"SENTINELS is a whole number from 0 to 10,000, not {self.sentinels!r}.")

    @property
    def token_ids(self) -> TokenIds:
        """The special ids, read from the file."""
        return self.layout.token_ids

    @property
    def layout(self) -> Layout:
        """The special ids, the names that are appended to the file, and the place of its id 0."""
        return _read(self.path, self._content(), self.sentinels)[1]

    def fingerprint(self, text_fingerprint: str) -> str:
        """SHA-256 over the file and its special ids; the text does not matter."""
        del text_fingerprint
        return digest("given", hashlib.sha256(self._content()).hexdigest(), repr(self.token_ids))

    def load(
        self,
        documents: Callable[[], Iterable[str]] = tuple,
        text_fingerprint: str = "",
        cache_dir: Path | None = None,
        log: Callable[[str], object] = print,
    ) -> Vocabulary:
        """The vocabulary of the file; nothing is trained or cached."""
        del documents, text_fingerprint, cache_dir, log
        content = self._content()
        kind, found = _read(self.path, content, self.sentinels)
        if kind == BYTES:
            return byte.ByteVocabulary(found)
        if kind == "json":
            return tokenizer_json.TokenizerJson(content, found, local(self.path))
        return sentencepiece.SentencePieceVocabulary(content, found.token_ids, local(self.path), found)

    def _content(self) -> bytes:
        if not self.path:
            raise NotHere("No vocabulary was given: say --gin.VOCAB_MODEL=FILE, or --gin.VOCAB_MODEL=bytes.")
        if self.path in (BYTES, BYT5):
            return b""
        path = local(self.path)
        if not os.path.exists(path):
            siblings = [str(path.parent / name) for name in os.listdir(path.parent)] if path.parent.is_dir() else []
            raise UserError(f"There is no vocabulary at {self.path!r}.{nearest(str(path), [*siblings, BYTES])}")
        return files.read_bytes(path)


def token_ids(path: str, sentinels: int = 100) -> TokenIds:
    """The special ids of a vocabulary file, for TOKENS."""
    return GivenVocabulary(path, sentinels).token_ids


def network_size(path: str, sentinels: int = 100, multiple: int = ROUNDED_TO) -> int:
    """The ids of a vocabulary file, rounded up to a `multiple`, for VOCAB_SIZE."""
    return -(-token_ids(path, sentinels).vocab_size // multiple) * multiple


@lru_cache(maxsize=8)
def _read(path: str, content: bytes, sentinels: int) -> tuple[str, Layout]:
    """The kind of a vocabulary file by its content, and its special ids."""
    where = f"The vocabulary {path!r}"
    if path in (BYTES, BYT5):
        return BYTES, layout(byte.HELD if path == BYTES else byte.BYT5_HELD, sentinels, where)
    if content.lstrip()[:1] == b"{":
        return "json", layout(tokenizer_json.held_by(_json(content, where), where), sentinels, where)
    return "sentencepiece", layout(sentencepiece.held_by(_proto(content, where)), sentinels, where)


def _json(content: bytes, where: str) -> Any:
    parsed = files.parse_json(content, where, dict)
    model = parsed.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise UserError(f"{where} is JSON without a 'model' that has a 'vocab', so it is no tokenizer.json.")
    return {"added_tokens": []} | parsed


def _proto(content: bytes, where: str) -> Any:
    from google.protobuf.message import DecodeError

    try:
        proto = parse_model(content)
    except DecodeError:
        proto = None
    if proto is None or not proto.pieces:
        raise UserError(f"{where} is neither a SentencePiece model nor a tokenizer.json.")
    return proto
