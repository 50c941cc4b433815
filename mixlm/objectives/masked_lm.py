"""Masked language modelling (BERT; LTG-BERT, GPT-BERT, AntLM): some tokens are masked and predicted."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.losses.token_losses import CrossEntropy, TokenLoss
from mixlm.objectives.base import Batch, Corruption, Decoding
from mixlm.objectives.corruption import (
    block_mask,
    check_documents,
    check_rate,
    check_row_bos,
    decoder_inputs,
    document_segments,
    mask_k_lowest,
    maskable,
    random_spans,
    random_tokens,
    rate_at,
    row_starts,
)
from mixlm.rng import subkeys
from mixlm.schedules import Schedule, Step
from mixlm.tokens import TokenIds
from mixlm.values import added, check_number


@dataclass(frozen=True)
class MaskedLM(Corruption):
    """`mean_{i chosen} -log p(x_i | x with the chosen tokens masked)`: the chosen are `mask_rate` of a row's text.

    A row is cut into spans, whose lengths 1, 2, ... have the probabilities `span_lengths` (GPT-BERT: a third each of 1
    to 3; LTG-BERT: geometric with p = 1/3; one token by default). The spans are taken in random order until the count
    is met exactly, so the last may be cut; the count, `mask_rate` of the tokens that are not special, is rounded up or
    down at random, with the right mean. Of the spans, `keep` stay as they are, `random` get random tokens (uniform over
    those that are not special, each its own) and the rest <mask>. GPT-BERT also prefers positions that were rarely
    masked before; that needs a state, so it is left out.

    Where `shifted` (masked next-token prediction) position i reads the token before x_i and predicts x_i; else, as
    AntLM presumably does, it reads x_i itself, masked. `row_bos` is that of `Causal`. `bidirectional` anneals the mask
    from causal (0) to bidirectional (1), see `corruption.block_mask`. With `separate_documents` attention ends where a
    document does (`tokens.bos` starts one). Rates that are schedules follow the step.
    """

    name: ClassVar[str] = "masked_lm"
    traced: ClassVar[tuple[str, ...]] = ("mask_rate",)
    tokens: TokenIds
    mask_rate: float | Schedule = 0.15
    keep: float = 0.1
    random: float = 0.1
    span_lengths: tuple[float, ...] = (1.0,)
    loss: TokenLoss = CrossEntropy()
    network: str = "model"
    shifted: bool = False
    bidirectional: float | Schedule = 1.0
    separate_documents: bool = False
    row_bos: bool = added(True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "span_lengths", tuple(self.span_lengths))  # gin writes lists
        for name in ("mask_rate", "bidirectional"):
            check_rate(self, name)
        for name in ("keep", "random"):
            check_number(self, name, 0, 1)
        if self.mask_rate == 0:
            raise UserError("MaskedLM.mask_rate = 0 would leave nothing to predict.")
        if self.keep + self.random > 1:
            raise UserError(f"MaskedLM.keep = {self.keep} and MaskedLM.random = {self.random} are more than all.")
        spans = self.span_lengths
        if not spans or min(spans) < 0 or not math.isclose(sum(spans), 1, abs_tol=1e-3):
            raise UserError(
                f"MaskedLM.span_lengths = {spans} must be probabilities of lengths 1, 2, ... that sum to 1."
            )
        if self.separate_documents:
            check_documents(self.tokens)
        check_row_bos(self.row_bos, self.separate_documents)

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Masked diffusion, with inputs and predictions aligned as in training."""
        return (Decoding("masked", {"shifted": self.shifted, "start": self.separate_documents}, self.network),)

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Tokens [B, T] -> inputs partly masked, targets the same tokens; the chosen positions are scored."""
        targets = batch["tokens"]
        row_keys, block_keys = subkeys(keys, 2)
        rate = rate_at(self.mask_rate, step)
        shown, chosen = jax.vmap(self._corrupt_row, in_axes=(0, 0, None))(row_keys, targets, rate)
        starts = row_starts(batch, self.tokens, self.row_bos)
        clean = decoder_inputs(targets, starts, self.shifted)
        return Example(
            decoder_input_tokens=decoder_inputs(shown, starts, self.shifted),
            decoder_target_tokens=targets,
            decoder_loss_weights=chosen.astype(jnp.float32),
            decoder_mask_ar=block_mask(block_keys, targets.shape[1], self.bidirectional, step),
            decoder_segment_ids=document_segments(clean, targets, self.tokens) if self.separate_documents else None,
        )

    def _corrupt_row(
        self, key: Key[Array, ""], row: Int[Array, " T"], rate: Float[Array, ""]
    ) -> tuple[Int[Array, " T"], Bool[Array, " T"]]:
        """Returns (the corrupted row, the mask of its targets)."""
        span_key, order_key, round_key, fate_key, token_key = jax.random.split(key, 5)
        length = row.shape[0]
        span = random_spans(span_key, length, self.span_lengths)  # [T]: the span that each token is in
        text = maskable(row, self.tokens)
        # Rounded up or down at random, so that the mean rate is exact: [].
        count = jnp.floor(rate * jnp.sum(text) + jax.random.uniform(round_key)).astype(jnp.int32)
        chosen = mask_k_lowest(jax.random.uniform(order_key, (length,))[span], text, count)
        # A span shares its rank, by which it is chosen, and its fate: kept, random or <mask>. [T]
        fate = jax.random.uniform(fate_key, (length,))[span]
        hidden = jnp.where(
            fate < self.keep + self.random, random_tokens(token_key, length, self.tokens), self.tokens.mask
        )
        return jnp.where(chosen & (fate >= self.keep), hidden, row), chosen
