"""Continuation by an encoder-decoder: the encoder reads a prefix and a sentinel, the decoder predicts the rest."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from mixlm.example import Example
from mixlm.losses.token_losses import CrossEntropy, TokenLoss
from mixlm.objectives.base import Batch, Corruption, Decoding
from mixlm.objectives.corruption import before_padding
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.schedules import Step
from mixlm.tokens import TokenIds


@dataclass(frozen=True)
class Continuation(Corruption):
    """`-sum_{i >= s} log p(x_i | x_<s and <extra_id_0> in the encoder, x_s..x_(i-1) in the decoder)`.

    With `after_prefix` the split s is uniform over 1..T-1 and the term is `prefix_lm`; without, s is 0, the encoder
    reads the sentinel alone and the term is `causal`. A row is as long as those of `spans`, so that one batch of text
    serves both; the encoder then reads up to T + 1 tokens and the decoder T + 1, sentinel included, not scored.
    """

    tokens: TokenIds
    spans: SpanCorruption
    after_prefix: bool = True
    loss: TokenLoss = CrossEntropy()
    network: str = "model"

    @property
    def name(self) -> str:
        """The name of the same task for a decoder."""
        return "prefix_lm" if self.after_prefix else "causal"

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """A row of span corruption."""
        return self.spans.block_length(lengths)

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Those of the span corruption beside it."""
        return self.spans.decodings

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Tokens [B, T] -> encoder inputs, prefix and sentinel [B, T + 2]; targets, sentinel and rest [B, T + 1]."""
        rows, length = len(keys), batch["tokens"].shape[1]
        whole = jnp.sum(before_padding(batch["tokens"], self.tokens.pad), axis=1, dtype=jnp.int32)
        split = jnp.zeros(rows, jnp.int32)
        if self.after_prefix:
            split = jnp.minimum(jax.vmap(lambda key: jax.random.randint(key, (), 1, length))(keys), whole)
        return replace_span(batch["tokens"], whole, split, whole, length, self.tokens)


def replace_span(
    rows: Int[Array, "B L"],
    lengths: Int[Array, " B"],
    start: Int[Array, " B"],
    end: Int[Array, " B"],
    width: int,
    tokens: TokenIds,
) -> Example:
    """Each row's tokens `start` to `end` (at most `width` of them) become `<extra_id_0>` and the targets.

    The encoder reads the rest of the row's first `lengths` tokens and EOS, [B, L + 2]; the targets are
    the sentinel, unscored, and the span, [B, width + 1].
    """
    start, end, lengths = start[:, None], end[:, None], lengths[:, None]
    place = jnp.arange(rows.shape[1] + 2)[None, :]
    last = lengths - (end - start) + 1
    index = jnp.where(place < start, place, place - 1 + end - start)
    read = jnp.take_along_axis(rows, jnp.clip(index, 0, rows.shape[1] - 1), axis=1)
    read = jnp.where(place == start, tokens.first_sentinel, jnp.where(place == last, tokens.eos, read))
    said = jnp.arange(width)[None, :] + start
    inside = said < end
    held = jnp.take_along_axis(rows, jnp.clip(said, 0, rows.shape[1] - 1), axis=1)
    targets = jnp.pad(jnp.where(inside, held, tokens.pad), ((0, 0), (1, 0)), constant_values=tokens.first_sentinel)
    present = jnp.pad(inside, ((0, 0), (1, 0)), constant_values=True)
    return Example(
        encoder_input_tokens=jnp.where(place <= last, read, tokens.pad),
        encoder_segment_ids=(place <= last).astype(jnp.int32),
        decoder_input_tokens=jnp.pad(targets, ((0, 0), (1, 0)), constant_values=tokens.bos)[:, :-1],
        decoder_target_tokens=targets,
        decoder_loss_weights=jnp.pad(inside, ((0, 0), (1, 0))).astype(jnp.float32),
        decoder_mask_ar=jnp.ones_like(targets),
        decoder_segment_ids=present.astype(jnp.int32),
    )
