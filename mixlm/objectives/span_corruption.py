"""Span corruption (T5, Raffel et al. 2020, section 3.1.4): spans become sentinels, the decoder says what they held."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from mixlm.corruption import fold_spans, shift_right, span_counts, span_mask
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.losses import CrossEntropy, Term, TokenLoss
from mixlm.objectives.base import Batch, Nets, score_example
from mixlm.schedules import Step
from mixlm.tokens import TokenIds


@dataclass(frozen=True)
class SpanCorruption:
    """Masks exactly `noise_density` of a row's tokens in spans of `mean_span_length` on average.

    L tokens of text give rows without padding: `L - noise + spans + 1` inputs and `noise + spans + 1` targets, both
    with EOS (568 -> 512 and 114 at T5's 15% and 3).
    """

    name: ClassVar[str] = "span_corruption"
    tokens: TokenIds
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    loss: TokenLoss = CrossEntropy()
    network: str = "model"

    def __post_init__(self) -> None:
        if not 0 < self.noise_density < 1:
            raise UserError(f"SpanCorruption.noise_density must be between 0 and 1, got {self.noise_density}.")
        if self.mean_span_length < 1:
            raise UserError(f"SpanCorruption.mean_span_length must be at least 1, got {self.mean_span_length}.")

    @property
    def networks(self) -> tuple[str, ...]:
        """The one network that is trained."""
        return (self.network,)

    def lengths(self, block_length: int) -> tuple[int, int]:
        """The inputs and targets, in tokens, that a row of `block_length` tokens gives."""
        noise, spans = span_counts(block_length, self.noise_density, self.mean_span_length)
        return block_length - noise + spans + 1, noise + spans + 1

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """The longest row that gives exactly these inputs and targets; UserError with the nearest where none does."""
        wanted = lengths["inputs"], lengths["targets"]
        near = None
        for length in range(max(2 * wanted[0] + 16, sum(wanted)), 1, -1):
            try:
                got = self.lengths(length)
            except UserError:
                continue
            if got == wanted:
                return self._with_enough_sentinels(length)
            if got[0] <= wanted[0] and near is None:
                near = got
        raise UserError(
            f"Span corruption at noise density {self.noise_density} and mean span length {self.mean_span_length} "
            f"cannot make {wanted[0]} inputs with {wanted[1]} targets"
            + (f"; the nearest lengths are {near[0]} and {near[1]}." if near else ".")
        )

    def _with_enough_sentinels(self, length: int) -> int:
        spans = span_counts(length, self.noise_density, self.mean_span_length)[1]
        if spans > self.tokens.sentinels:
            raise UserError(
                f"A row of {length} tokens has {spans} spans, but there are {self.tokens.sentinels} sentinels."
            )
        return length

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Tokens [B, L] -> encoder inputs [B, S] and decoder targets [B, T]."""
        inputs, targets = jax.vmap(self._corrupt_row)(keys, batch["tokens"])
        return Example(
            encoder_input_tokens=inputs,
            decoder_input_tokens=jax.vmap(lambda row: shift_right(row, self.tokens.bos))(targets),
            decoder_target_tokens=targets,
            decoder_loss_weights=jnp.ones(targets.shape),
            decoder_mask_ar=jnp.ones_like(targets),
        )

    def _corrupt_row(self, key: Key[Array, ""], row: Int[Array, " L"]) -> tuple[Int[Array, " S"], Int[Array, " T"]]:
        noise, spans = span_counts(row.shape[0], self.noise_density, self.mean_span_length)
        inputs, targets = self.lengths(row.shape[0])
        mask = span_mask(key, row.shape[0], noise, spans)
        first, eos = self.tokens.first_sentinel, self.tokens.eos
        return fold_spans(row, mask, inputs, first, eos), fold_spans(row, ~mask, targets, first, eos)

    def __call__(self, nets: Nets, batch: Batch, keys: Key[Array, " B"], step: Int[Array, ""]) -> dict[str, Term]:
        """The term `span_corruption`: the mean cost of a target token."""
        return score_example(nets[self.network], self.corrupt(keys, batch, step), self.name, self.loss)
