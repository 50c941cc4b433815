"""Answers to questions as sentences to score, and documents as the windows in which a network reads them."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mixlm.errors import UserError
from mixlm.evaluation.sentences import Sentences


@runtime_checkable
class Tokeniser(Protocol):
    """A vocabulary: token ids of a text, and their pieces, with U+2581 where a word begins."""

    def encode(self, text: str) -> list[int]: ...

    def pieces(self, ids: Sequence[int]) -> list[str]: ...


@dataclass(frozen=True)
class Answer:
    """An answer, read right after its question, which may be ""; answers of one `group` share their noise.

    `where` names it in errors.
    """

    question: str
    answer: str
    group: str
    where: str


@dataclass(frozen=True)
class _Piece:
    """Tokens to read at once: those of the prefix are not scored, and `previous` is the token before, 0 without one."""

    tokens: list[int]
    prefix: int
    group: str
    previous: int = 0


def answer_sentences(
    vocabulary: Tokeniser, answers: Sequence[Answer], length: int, before: int = 0
) -> tuple[Sentences, int]:
    """Returns (a sentence for each answer, its question the prefix; the questions cut to `length` tokens in all).

    The answer begins at the first token at which question and answer together differ from the question alone; of a long
    question the end is read, after the token before it where rows of text are read so (`before` 1). UserError for an
    answer that has no token, or more than `length`.
    """
    pieces, cut = [], 0
    encoded = _Encoded(vocabulary)
    for each in answers:
        whole, prefix = encoded.split(each.question, each.answer)
        if prefix == len(whole):
            raise UserError(f"The answer {each.answer!r} of {each.where} adds no token to its question.")
        if len(whole) - prefix > length:
            raise UserError(
                f"An answer of {each.where} has {len(whole) - prefix} tokens, and {length} are read at once: give a "
                "larger max_length."
            )
        dropped = max(len(whole) - length, 0)
        cut += dropped > 0
        previous = whole[dropped - 1] if dropped and before else 0
        pieces.append(_Piece(whole[dropped:], max(prefix - dropped, 0), each.group, previous))
    return _sentences(vocabulary, pieces), cut


def window_sentences(
    vocabulary: Tokeniser, documents: Sequence[str], length: int, before: int = 0
) -> tuple[Sentences, list[int]]:
    """Returns (windows of at most `length` tokens in which each token of a document is scored once, their documents).

    The last window of a document is as long as the others, and its prefix is what the one before it has scored.
    """
    pieces: list[_Piece] = []
    owners: list[int] = []
    for number, text in enumerate(documents):
        tokens = vocabulary.encode(text)
        for start in range(0, len(tokens), length):
            end = min(start + length, len(tokens))
            first = max(end - length, 0)
            previous = tokens[first - 1] if first and before else 0
            pieces.append(_Piece(tokens[first:end], start - first, f"document {number}", previous))
            owners.append(number)
    return _sentences(vocabulary, pieces), owners


def _sentences(vocabulary: Tokeniser, pieces: Sequence[_Piece]) -> Sentences:
    return Sentences(
        [piece.tokens for piece in pieces],
        np.asarray([piece.prefix for piece in pieces], np.int64),
        np.asarray([noise_of(piece.group) for piece in pieces], np.int64),
        np.asarray([piece.previous for piece in pieces], np.int64),
        [words_of(vocabulary, piece.tokens) for piece in pieces],
    )


def noise_of(group: str) -> int:
    """The number of a group's noise, a function of its name alone, so that it depends on no other question."""
    return zlib.crc32(group.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF


def words_of(vocabulary: Tokeniser, tokens: Sequence[int]) -> list[int]:
    """The number of each token's word, from 1; a word begins at a piece that a space precedes."""
    opens = [piece.startswith(("\u2581", " ")) for piece in vocabulary.pieces(tokens)]
    return list(accumulate(map(int, opens), initial=1))[1:]


class _Encoded:
    """Questions in tokens, each encoded once for all of its answers."""

    def __init__(self, vocabulary: Any) -> None:
        self._encode, self._text, self._tokens = vocabulary.encode, "", list[int]()

    def split(self, question: str, answer: str) -> tuple[list[int], int]:
        """The tokens of both together, and how many of them are the question's own."""
        if question != self._text:
            self._text, self._tokens = question, self._encode(question)
        whole = self._encode(question + answer)
        return whole, next(_differing(self._tokens, whole), min(len(self._tokens), len(whole)))


def _differing(left: Sequence[int], right: Sequence[int]) -> Iterator[int]:
    return (place for place, (one, other) in enumerate(zip(left, right)) if one != other)
