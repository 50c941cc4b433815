"""Perplexity of running text: nats per token, and bits per byte, which compare across vocabularies."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, Int32

from mixlm.errors import UserError
from mixlm.evaluation.likelihood import Fused, Mode
from mixlm.evaluation.scorer import Scores, Sentences
from mixlm.tokens import TokenIds


@dataclass(frozen=True)
class TextFigures:
    """The figures of some rows of text in one mode; errors are standard errors over the rows, NaN for a single row.

    `noise_error` is the part of `nats_error` that comes from a diffusion bound's samples, and would shrink with more.
    """

    kind: str
    rows: int
    tokens: int
    bytes: int
    nats_per_token: float
    nats_error: float
    bits_per_byte: float
    bits_error: float
    noise_error: float | None = None

    @property
    def perplexity(self) -> float:
        """`exp(nats_per_token)`."""
        return math.exp(self.nats_per_token)


@dataclass(frozen=True, eq=False)
class Text:
    """Rows of text as what is scored, with the row that each sentence comes from."""

    sentences: Sentences
    rows: Int[np.ndarray, " N"]


def pieces_of_rows(rows: Int32[np.ndarray, "N L"], tokens: TokenIds) -> Text:
    """Cuts every row where a document begins or ends, so that nothing is read across documents that are marked.

    The tokens that mark it (bos, EOS, padding) are not scored. The prefix of a piece is its first half. Raises
    UserError where nothing is left.
    """
    marks = (tokens.bos, tokens.eos, tokens.pad)
    pieces: list[tuple[int, list[int]]] = []
    for number, row in enumerate(rows):
        places = np.flatnonzero(np.isin(row, marks))
        parts = np.split(row, np.union1d(places, places + 1))
        pieces += [(number, part.tolist()) for part in parts if len(part) and part[0] not in marks]
    if not pieces:
        raise UserError("The validation rows hold no text, only the marks of where documents begin and end.")
    halves = np.asarray([len(piece) // 2 for _, piece in pieces], np.int64)
    sentences = Sentences([piece for _, piece in pieces], halves, np.arange(len(pieces)))
    return Text(sentences, np.asarray([number for number, _ in pieces], np.int64))


def pieces_of_documents(documents: Iterable[Sequence[int]], length: int, rows: int | None = None) -> Text:
    """Cuts each document's tokens into rows of at most `length`, of which the first `rows` are taken (None: all).

    No row crosses documents. The prefix of a row is its first half. Raises UserError where there is no token.
    """
    cut = (list(tokens[start : start + length]) for tokens in documents for start in range(0, len(tokens), length))
    pieces = list(islice(cut, rows))
    if not pieces:
        raise UserError("The text to score holds no token.")
    numbers = np.arange(len(pieces), dtype=np.int64)
    halves = np.asarray([len(piece) // 2 for piece in pieces], np.int64)
    return Text(Sentences(pieces, halves, numbers), numbers)


def text_figures(
    scorer: Callable[[Mode | Fused, Sentences, str], Scores],
    mode: Mode | Fused,
    text: Text,
    vocabulary: Any,
    name: str,
) -> TextFigures | None:
    """Scores rows of text; None for a sum of modes, which is no figure of a text."""
    if isinstance(mode, Fused):
        return None
    sentences = text.sentences
    scores = scorer(mode, sentences, name)
    scored = mode.scored(sentences.lengths, sentences.prefixes)
    sizes = np.asarray([_bytes(vocabulary, tokens, int(count)) for tokens, count in zip(sentences.tokens, scored)])
    row = np.unique(text.rows, return_inverse=True)[1]
    cost, tokens, size = (np.bincount(row, weights=values) for values in (-scores.total, scored, sizes))
    nats, nats_error = ratio(cost, tokens)
    bits, bits_error = ratio(cost / math.log(2), size)
    return TextFigures(
        mode.kind, len(cost), int(scored.sum()), int(sizes.sum()), nats, nats_error, bits, bits_error,
        None if scores.samples is None else float(np.sqrt(np.sum(noise_errors(scores.samples) ** 2)) / scored.sum()),
    )  # fmt: skip


def ratio(numbers: Any, sizes: Any) -> tuple[float, float]:
    """`sum(numbers) / sum(sizes)` over rows, and its standard error by the delta method (NaN for one row)."""
    numbers, sizes = np.asarray(numbers, np.float64), np.asarray(sizes, np.float64)
    mean, count = numbers.sum() / sizes.sum(), len(numbers)
    if count < 2:
        return float(mean), math.nan
    spread = np.sum((numbers - mean * sizes) ** 2) / (count - 1)
    return float(mean), float(math.sqrt(spread / count) / sizes.mean())


def noise_errors(samples: Float64[np.ndarray, "N S"]) -> Float64[np.ndarray, " N"]:
    """The standard error of each sentence's mean over its noise samples, `sqrt(sum_j (y_2j - y_2j+1)^2) / S`.

    The samples' levels are stratified, so the plain standard error would be far too large; this one takes two
    neighbouring strata for one, and is a little too large.
    """
    return np.sqrt(np.sum((samples[:, ::2] - samples[:, 1::2]) ** 2, axis=1)) / samples.shape[1]


def _bytes(vocabulary: Any, tokens: Any, scored: int) -> int:
    """The UTF-8 bytes of a row's last `scored` tokens, as the row is read."""
    given = len(tokens) - scored
    return len(vocabulary.decode(tokens).encode()) - len(vocabulary.decode(tokens[:given]).encode())
