"""Bytes as a vocabulary, in ByT5's ids: padding 0, EOS 1, unknown 2, and byte b is b + 3."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import SupportsIndex

from mixlm.data.sources.base import digest
from mixlm.data.vocabularies.base import Vocabulary, encode_marked
from mixlm.data.vocabularies.special_tokens import Held, Layout

OFFSET, SIZE = 3, 259  # as in arXiv 2105.13626 and seqio.ByteVocabulary
HELD = Held(SIZE, {"<pad>": 0, "</s>": 1, "<unk>": 2}, zero_is_text=False)
BYT5_HELD = Held(SIZE, {**HELD.names, "<s>": 0}, zero_is_text=False)  # its decoder begins with padding, as T5's


class ByteVocabulary(Vocabulary):
    """The UTF-8 bytes of a text, so that a token is a byte; nothing is normalised, and nothing is unknown."""

    def __init__(self, given: Layout):
        self.token_ids = given.token_ids
        self.path = Path("bytes")
        self.fingerprint = digest("bytes", asdict(given.token_ids))
        self._names = dict(enumerate(given.appended, SIZE)) | {token: name for name, token in HELD.names.items()}

    def encode(self, text: str) -> list[int]:
        """Each byte and 3."""
        return [byte + OFFSET for byte in text.encode()]

    def encode_with_sentinels(self, text: str) -> list[int]:
        """As `encode`, and `<extra_id_k>` becomes that sentinel."""
        return encode_marked(text, self)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text's bytes."""
        return [self.encode(text) for text in texts]

    def encode_with_bytes(self, text: str) -> tuple[list[int], list[int]]:
        """Each byte and 3, each of one byte."""
        tokens = self.encode(text)
        return tokens, [1] * len(tokens)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The bytes as UTF-8, U+FFFD where they are none; special ids by name."""
        text = ""
        for special, group in groupby(map(int, ids), key=lambda token: not OFFSET <= token < SIZE):
            run = list(group)
            if special:
                text += "".join(map(self._piece, run))
            else:
                text += bytes(token - OFFSET for token in run).decode("utf-8", "replace")
        return text

    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """The character of each ASCII byte, other bytes as `<0xE9>`, and special ids by name."""
        return [self._piece(int(token)) for token in ids]

    def _piece(self, token: int) -> str:
        if OFFSET <= token < OFFSET + 128:
            return chr(token - OFFSET)
        return f"<0x{token - OFFSET:02X}>" if OFFSET <= token < SIZE else self._names.get(token, f"<{token}>")
