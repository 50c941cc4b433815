"""Perplexity of running text: nats per token, and bits per byte, which compare across vocabularies."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, Int32

from mixlm.errors import UserError
from mixlm.evaluation.base import Mode
from mixlm.evaluation.likelihood import Fused
from mixlm.evaluation.scorer import Scores
from mixlm.evaluation.sentences import Sentences, counts_of
from mixlm.tokens import TokenIds


@dataclass(frozen=True)
class TextFigures:
    """The figures of some rows of text in one mode; errors are standard errors over the rows, NaN for a single row.

    `bytes` are those of the documents that the scored tokens cover, and `unknown` is the share of them that is <unk>;
    all that rests on them is None where they are not known. `read` counts the rows that the network read. Where they
    were drawn, figures are estimates for all `tokens`. `noise_error` is the part of `nats_error` that comes from what
    was drawn, positions or a diffusion bound's samples, and would shrink with more.
    """

    kind: str
    rows: int
    tokens: int
    bytes: int | None
    nats_per_token: float
    nats_error: float
    bits_per_byte: float | None
    bits_error: float | None
    noise_error: float | None = None
    unknown: float | None = None
    read: int | None = None

    @property
    def perplexity(self) -> float:
        """`exp(nats_per_token)`, infinity where that is more than a float holds."""
        try:
            return math.exp(self.nats_per_token)
        except OverflowError:
            return math.inf


@dataclass(frozen=True, eq=False)
class Text:
    """Rows of text as what is scored: sentences, and the row that each comes from.

    `sizes` are the bytes of the documents that each token of each sentence covers, None where they are not known.
    """

    sentences: Sentences
    rows: Int[np.ndarray, " N"]
    sizes: Sequence[Sequence[int]] | None = None

    def bytes_of(
        self, counts: Int[np.ndarray, " N"], unk: int
    ) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]] | None:
        """The bytes that the last `counts` tokens of each sentence cover, and those of them that are `unk`."""
        if self.sizes is None:
            return None
        found = np.zeros((len(self.sizes), 2), np.int64)
        for number, (tokens, sizes, count) in enumerate(zip(self.sentences.tokens, self.sizes, counts)):
            last = slice(len(tokens) - int(count), None)
            unknown = sum(size for token, size in zip(tokens[last], sizes[last]) if token == unk)
            found[number] = sum(sizes[last]), unknown
        return found[:, 0], found[:, 1]


def pieces_of_rows(
    rows: Int32[np.ndarray, "N L"],
    tokens: TokenIds,
    sizes: Int32[np.ndarray, "N L"] | None = None,
    previous: Int32[np.ndarray, " N"] | None = None,
) -> Text:
    """Cuts every row where a document begins or ends, so that nothing is read across documents that are marked.

    The tokens that mark it (bos, EOS, padding) are not scored. The prefix of a piece is its first half. `sizes` are the
    bytes that each token covers, and `previous` the token before each row, after which a piece in mid-document is read
    (None: all are read after bos). Raises UserError where nothing is left.
    """
    marks = (tokens.bos, tokens.eos, tokens.pad)
    pieces: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        places = np.flatnonzero(np.isin(row, marks))
        cuts = [0, *np.union1d(places, places + 1).tolist(), len(row)]
        pieces += [(number, start, end) for start, end in pairwise(cuts) if start < end and row[start] not in marks]
    if not pieces:
        raise UserError("The validation rows hold no text, only the marks of where documents begin and end.")
    return _halved(
        [rows[number, start:end].tolist() for number, start, end in pieces],
        np.asarray([number for number, _, _ in pieces], np.int64),
        None if sizes is None else [sizes[number, start:end].tolist() for number, start, end in pieces],
        None
        if previous is None
        else [0 if start or previous[number] in marks else int(previous[number]) for number, start, _ in pieces],
    )


def pieces_of_documents(documents: Iterable[tuple[Sequence[int], Sequence[int]]], length: int, before: int = 0) -> Text:
    """Cuts each document, its tokens and the bytes that they cover, into rows of at most `length` tokens.

    No row crosses documents. With `before` 1 a row in mid-document is read after the token before it, and not after
    bos. The prefix of a row is its first half. Raises UserError where there is no token.
    """
    pieces = [
        (list(tokens[start : start + length]), list(sizes[start : start + length]), tokens[start - 1] if start else 0)
        for tokens, sizes in documents
        for start in range(0, len(tokens), length)
    ]
    if not pieces:
        raise UserError("The text to score holds no token.")
    tokens, sizes, previous = (list(column) for column in zip(*pieces))
    return _halved(tokens, np.arange(len(pieces)), sizes, previous if before else None)


def _halved(
    pieces: list[list[int]],
    rows: Int[np.ndarray, " N"],
    sizes: list[list[int]] | None,
    previous: list[int] | None,
) -> Text:
    """The pieces as a text; the prefix of each is its first half."""
    halves = np.asarray([len(piece) // 2 for piece in pieces], np.int64)
    follows = None if previous is None else np.asarray(previous, np.int64)
    return Text(Sentences(pieces, halves, np.arange(len(pieces)), follows), rows, sizes)


def text_figures(
    scorer: Callable[[Mode | Fused, Sentences, str], Scores], mode: Mode | Fused, text: Text, unk: int, name: str
) -> TextFigures | None:
    """Scores rows of text, in which `unk` is the unknown token; None for a sum of modes, which is no figure of a text.

    Where a row's positions are drawn, its cost is an unbiased estimate with independent noise, so that the spread over
    rows, the clusters, holds both what rows differ by and what was drawn of them; the number of tokens is known. A
    network that has diverged may find a token impossible: figures are infinite then, and their errors NaN.
    """
    if isinstance(mode, Fused):
        return None
    sentences = text.sentences
    scores = scorer(mode, sentences, name)
    scored = mode.scored(sentences.lengths, sentences.prefixes)
    row = np.unique(text.rows, return_inverse=True)[1]
    cost, tokens = (np.bincount(row, weights=values) for values in (-scores.total, scored))
    nats, nats_error = ratio(cost, tokens)
    covered = text.bytes_of(scored, unk)
    size = bits = bits_error = share = None
    if covered is not None:
        size = int(covered[0].sum())
        bits, bits_error = ratio(cost / math.log(2), np.bincount(row, weights=covered[0]))
        share = float(covered[1].sum() / max(size, 1))
    return TextFigures(
        mode.kind, len(cost), int(scored.sum()), size, nats, nats_error, bits, bits_error,
        None if scores.samples is None else _total_noise(scores.samples) / float(scored.sum()), share,
        int(counts_of(mode, sentences).sum()),
    )  # fmt: skip


def ratio(numbers: Any, sizes: Any) -> tuple[float, float]:
    """`sum(numbers) / sum(sizes)` over rows, and its standard error by the delta method.

    The error is NaN for one row and for an infinite ratio, which is what sizes of 0 give too.
    """
    numbers, sizes = np.asarray(numbers, np.float64), np.asarray(sizes, np.float64)
    mean, count = float(numbers.sum() / sizes.sum()) if sizes.sum() else math.inf, len(numbers)
    if count < 2 or math.isinf(mean):
        return mean, math.nan
    spread = np.sum((numbers - mean * sizes) ** 2) / (count - 1)
    return mean, float(math.sqrt(spread / count) / sizes.mean())


def noise_errors(samples: Float64[np.ndarray, "N S"]) -> Float64[np.ndarray, " N"]:
    """The standard error of each sentence's mean over its samples, `sqrt(sum_j (y_2j - y_2j+1)^2) / S`.

    The samples' levels or positions are stratified, so the plain standard error would be far too large; this one takes
    two neighbouring strata for one, and is a little too large.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # infinite estimates have no error
        return np.sqrt(np.sum((samples[:, ::2] - samples[:, 1::2]) ** 2, axis=1)) / samples.shape[1]


def _total_noise(samples: Float64[np.ndarray, "N S"]) -> float:
    """The standard error of the sum over sentences."""
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.sum(noise_errors(samples) ** 2)))
