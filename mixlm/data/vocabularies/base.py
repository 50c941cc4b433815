"""The vocabulary as the rest of mixlm knows it: text to ids and back, and the bytes that each id covers."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import SupportsIndex

from mixlm.tokens import TokenIds

SPACE = "\u2581"  # SentencePiece writes a space in a piece as this


class Vocabulary(ABC):
    """Ids of text, with T5's sentinels `<extra_id_k>` as the last of them, `<extra_id_0>` the highest.

    `path` is the file that it was read from, and `fingerprint` covers its content and its special ids.
    """

    token_ids: TokenIds
    path: Path
    fingerprint: str

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without EOS: `<extra_id_0>`, `<mask>` or `</s>` in it is text like any other."""

    @abstractmethod
    def encode_with_sentinels(self, text: str) -> list[int]:
        """Token ids of a prompt or input whose spans a user has marked: `<extra_id_k>` becomes that sentinel."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, as `encode` gives them, computed on all cores."""

    @abstractmethod
    def encode_with_bytes(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of `text`, as `encode` gives them, and how many UTF-8 bytes of `text` each covers.

        The bytes are those of the text as it is given, before it is normalised, and add up to it where there is a
        token.
        """

    @abstractmethod
    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Readable text, with sentinels as `<extra_id_k>` and the other special ids by name."""

    @abstractmethod
    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """The piece of each id, with U+2581 where `decode` leaves a space out; an id outside of it as `<id>`."""


def special_ids(ids: TokenIds) -> set[int]:
    """The ids that no plain text may have: sentinels, mask, padding, EOS and BOS."""
    sentinels = range(ids.vocab_size - ids.sentinels, ids.vocab_size)
    return {ids.pad, ids.eos, ids.bos, ids.mask, *sentinels} - {ids.unk}


def encode_marked(text: str, vocabulary: Vocabulary) -> list[int]:
    """Token ids of text whose spans are marked: the text between sentinels is encoded part by part."""
    ids, tokens, place = vocabulary.token_ids, list[int](), 0
    for match in re.finditer(r"<extra_id_(\d{1,9})>", text):
        if int(match[1]) < ids.sentinels:
            tokens += [*vocabulary.encode(text[place : match.start()]), ids.first_sentinel - int(match[1])]
            place = match.end()
    return tokens + vocabulary.encode(text[place:])
