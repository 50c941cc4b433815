"""Span corruption (T5, Raffel et al. 2020, section 3.1.4): spans become sentinels, and their tokens the targets."""

import contextlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import gt
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int, Key

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.losses.token_losses import CrossEntropy, TokenLoss
from mixlm.objectives.base import Batch, Corruption, Decoding
from mixlm.objectives.corruption import (
    before_padding,
    check_documents,
    fold_sources,
    fold_spans,
    rounded_counts,
    shift_right,
    span_counts,
    span_mask,
    span_starts,
)
from mixlm.schedules import Step
from mixlm.tokens import TokenIds

ROWS_TRIED = 64  # Ours: for the nearest lengths of a message; only short rows round to spans that they cannot hold.


@struct.dataclass
class CorruptedRow:
    """A corrupted row: inputs, targets, the mask of scored targets, and the segment ids of documents kept apart."""

    inputs: Int[Array, "*B S"]
    targets: Int[Array, "*B T"]
    scored: Bool[Array, "*B T"]
    input_segments: Int[Array, "*B S"] | None = None
    target_segments: Int[Array, "*B T"] | None = None


@dataclass(frozen=True)
class SpanCorruption(Corruption):
    """Masks exactly `noise_density` of a row's tokens in spans of `mean_span_length` on average.

    L tokens of text give rows without padding: `L - noise + spans + 1` inputs and `noise + spans + 1` targets, both
    with EOS (568 -> 512 and 114 at T5's 15% and 3). Of a row that ends in padding, what is padding goes, and EOS
    follows on the rest; a row without a span has no targets.

    With `separate_documents` attention ends where a document does (`tokens.bos` starts one). A sentinel belongs to the
    document in which its span begins; tokens of the next document that a span holds are targets without that one's
    sentinel, and are not scored where the span holds all of it.
    """

    name: ClassVar[str] = "span_corruption"
    tokens: TokenIds
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    loss: TokenLoss = CrossEntropy()
    network: str = "model"
    separate_documents: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.noise_density < 1:
            raise UserError(f"SpanCorruption.noise_density must be between 0 and 1, got {self.noise_density}.")
        if self.mean_span_length < 1:
            raise UserError(f"SpanCorruption.mean_span_length must be at least 1, got {self.mean_span_length}.")
        if self.separate_documents:
            check_documents(self.tokens)

    def lengths(self, block_length: int) -> tuple[int, int]:
        """The inputs and targets, in tokens, that a row of `block_length` tokens gives."""
        noise, spans = span_counts(block_length, self.noise_density, self.mean_span_length)
        return block_length - noise + spans + 1, noise + spans + 1

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """The longest row that gives exactly these inputs and targets; UserError with the nearest where none does."""
        wanted = lengths["inputs"], lengths["targets"]
        rows = range(2, max(2 * wanted[0] + 16, sum(wanted)) + 1)

        def made(length: int) -> tuple[int, int]:
            noise, spans = rounded_counts(length, self.noise_density, self.mean_span_length)
            return length - noise + spans + 1, noise + spans + 1

        # Neither length falls as rows grow, so halving finds the longest row that goes past neither.
        fits = bisect_left(rows, True, key=lambda length: any(map(gt, made(length), wanted)))
        if fits and made(rows[fits - 1]) == wanted and (found := self._made([rows[fits - 1]])) is not None:
            return self._with_enough_sentinels(found)
        most = bisect_left(rows, True, key=lambda length: made(length)[0] > wanted[0])
        nearest_row = self._made(rows[max(most - ROWS_TRIED, 0) : most][::-1])
        near = None if nearest_row is None else self.lengths(nearest_row)
        raise UserError(
            f"Span corruption at noise density {self.noise_density} and mean span length {self.mean_span_length} "
            f"cannot make {wanted[0]} inputs with {wanted[1]} targets"
            + (f"; the nearest lengths are {near[0]} and {near[1]}." if near else ".")
        )

    def _made(self, lengths: Sequence[int]) -> int | None:
        """The first of these rows that can hold its spans."""
        for length in lengths:
            with contextlib.suppress(UserError):
                _ = self.lengths(length)
                return length
        return None

    def _with_enough_sentinels(self, length: int) -> int:
        spans = span_counts(length, self.noise_density, self.mean_span_length)[1]
        if spans > self.tokens.sentinels:
            raise UserError(
                f"A row of {length} tokens has {spans} spans, but there are {self.tokens.sentinels} sentinels."
            )
        return length

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Filling the sentinels of the prompt."""
        return (Decoding("spans", network=self.network),)

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Tokens [B, L] -> encoder inputs [B, S] and decoder targets [B, T]."""
        folded = jax.vmap(self._corrupt_row)(keys, batch["tokens"])
        targets = folded.targets
        return Example(
            encoder_input_tokens=folded.inputs,
            decoder_input_tokens=jax.vmap(lambda row: shift_right(row, self.tokens.bos))(targets),
            decoder_target_tokens=targets,
            decoder_loss_weights=folded.scored.astype(jnp.float32),
            decoder_mask_ar=jnp.ones_like(targets),
            encoder_segment_ids=folded.input_segments,
            decoder_segment_ids=folded.target_segments,
        )

    def _corrupt_row(self, key: Key[Array, ""], row: Int[Array, " L"]) -> CorruptedRow:
        noise, spans = span_counts(row.shape[0], self.noise_density, self.mean_span_length)
        inputs, targets = self.lengths(row.shape[0])
        mask = span_mask(key, row.shape[0], noise, spans)  # [L]
        first, eos = self.tokens.first_sentinel, self.tokens.eos
        real = before_padding(row, self.tokens.pad)
        # Tokens before EOS: of the inputs, clean tokens and sentinels; of the targets, sentinels and noise.
        read = jnp.sum((~mask | span_starts(mask)) & real)
        hidden = jnp.sum(span_starts(mask) & real)
        said = jnp.where(hidden > 0, hidden + jnp.sum(mask & real), 0)
        folded = CorruptedRow(
            inputs=self._ended(fold_spans(row, mask, inputs, first, eos), read),
            targets=self._ended(fold_spans(row, ~mask, targets, first, eos), said),
            scored=(jnp.arange(targets) <= said) & (said > 0),
        )
        return self._by_document(folded, row, mask, read, said) if self.separate_documents else folded

    def _ended(self, folded: Int[Array, " S"], count: Int[Array, ""]) -> Int[Array, " S"]:
        """The first `count` tokens, EOS and padding; all padding where there are none."""
        place = jnp.arange(folded.shape[0])
        end = jnp.where((place == count) & (count > 0), self.tokens.eos, self.tokens.pad)
        return jnp.where(place < count, folded, end).astype(folded.dtype)

    def _by_document(
        self, folded: CorruptedRow, row: Int[Array, " L"], mask: Bool[Array, " L"], read: Array, said: Array
    ) -> CorruptedRow:
        """Adds the segment ids of inputs and, by the token that a position reads, of targets."""
        length = row.shape[0]
        document = jnp.cumsum((row == self.tokens.bos).at[0].set(True), dtype=jnp.int32)
        # Among the targets a sentinel stands for the clean piece before its span, and belongs where the span begins.
        opened = jnp.cumsum(span_starts(mask))
        begins = jnp.minimum(jnp.searchsorted(opened, opened + 1, side="left"), length - 1)
        of_target = jnp.where(mask, document, document[begins])[fold_sources(~mask, folded.targets.shape[0])]
        of_input = document[fold_sources(mask, folded.inputs.shape[0])]
        last = document[jnp.maximum(jnp.sum(before_padding(row, self.tokens.pad)) - 1, 0)]
        place = jnp.arange(folded.inputs.shape[0])
        input_segments = jnp.where(place < read, jnp.append(of_input, last), last)
        input_segments = jnp.where((place <= read) & (read > 0), input_segments, 0)
        target_segments = jnp.where(folded.scored, jnp.concatenate([of_target[:1], of_target]), 0)
        # Attention that sees nothing would be even over everything.
        seen = jnp.any(target_segments[:, None] == input_segments[None, :], axis=1)
        return replace(
            folded,
            scored=folded.scored & seen,
            input_segments=input_segments,
            target_segments=jnp.where(seen, target_segments, 0),
        )
