"""What an objective hands to a network: which tokens are read, what is to be said, and who sees whom."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mixlm.errors import UserError


@struct.dataclass
class Example:
    """A batch as a network reads it, in the field names of T5X.

    `decoder_loss_weights` is 0 where a position is not scored (1/p in diffusion), and `decoder_loss_counts`, by default
    1 where it is scored, is what the mean divides by. `decoder_mask_ar` is 1 where a
    position opens a new causal step and 0 where it joins the block before it: all 1 is causal, all 0 bidirectional,
    0..0 1..1 a prefix. Segment ids tell packed documents apart, 0 is padding; without them, padding is where the target
    (or the encoder's input) is token 0. Positions default to the index in the row.
    """

    decoder_input_tokens: Int[Array, "B T"]
    decoder_target_tokens: Int[Array, "B T"]
    decoder_loss_weights: Float[Array, "B T"]
    decoder_mask_ar: Int[Array, "B T"]
    encoder_input_tokens: Int[Array, "B S"] | None = None
    decoder_segment_ids: Int[Array, "B T"] | None = None
    decoder_positions: Int[Array, "B T"] | None = None
    encoder_segment_ids: Int[Array, "B S"] | None = None
    encoder_positions: Int[Array, "B S"] | None = None
    decoder_loss_counts: Float[Array, "B T"] | None = None

    @property
    def decoder_segments(self) -> Int[Array, "B T"]:
        """Segment ids of the decoder's positions, 0 where padded."""
        if self.decoder_segment_ids is not None:
            return self.decoder_segment_ids
        return (self.decoder_target_tokens > 0).astype(jnp.int32)

    @property
    def loss_counts(self) -> Float[Array, "B T"]:
        """What each position adds to the count that the mean divides by."""
        if self.decoder_loss_counts is not None:
            return self.decoder_loss_counts
        return (self.decoder_loss_weights > 0).astype(jnp.float32)

    @property
    def encoder_tokens(self) -> Int[Array, "B S"]:
        """The encoder's input; UserError where there is none."""
        if self.encoder_input_tokens is None:
            raise UserError("This network has an encoder, and the objective's examples give it nothing to read.")
        return self.encoder_input_tokens

    @property
    def encoder_segments(self) -> Int[Array, "B S"]:
        """Segment ids of the encoder's positions, 0 where padded."""
        if self.encoder_segment_ids is not None:
            return self.encoder_segment_ids
        return (self.encoder_tokens > 0).astype(jnp.int32)


def joined(example: Example) -> Example:
    """The example for a network without an encoder: the encoder's input becomes a bidirectional prefix, unscored."""
    prefix = example.encoder_tokens
    segments, scored = example.encoder_segments, example.decoder_segments
    # The first decoder position opens a causal step, so that the prefix cannot see it.
    mask_ar = example.decoder_mask_ar.at[:, 0].set(1)

    def beside(left: Array, right: Array) -> Array:
        return jnp.concatenate([left, right.astype(left.dtype)], axis=1)

    places = None
    if example.encoder_positions is not None and example.decoder_positions is not None:
        # Each document's targets go on where its own inputs end.
        ends = jnp.sum(same_segment(scored, segments), axis=2)
        places = beside(example.encoder_positions, example.decoder_positions + ends)
    return Example(
        decoder_input_tokens=beside(prefix, example.decoder_input_tokens),
        decoder_target_tokens=beside(prefix, example.decoder_target_tokens),
        decoder_loss_weights=beside(jnp.zeros(prefix.shape), example.decoder_loss_weights),
        decoder_mask_ar=beside(jnp.zeros_like(prefix), mask_ar),
        decoder_segment_ids=beside(segments, scored),
        decoder_positions=places,
        decoder_loss_counts=beside(jnp.zeros(prefix.shape), example.loss_counts),
    )


def same_segment(queries: Int[Array, "B Q"], keys: Int[Array, "B K"]) -> Bool[Array, "B Q K"]:
    """Whether query q and key k belong to the same document; padding (segment 0) belongs to none."""
    return (queries[:, :, None] == keys[:, None, :]) & (queries[:, :, None] > 0)


def attention_mask(mask_ar: Int[Array, "B T"], segments: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Whether query q sees key k: `cumsum(mask_ar)[k] <= cumsum(mask_ar)[q]` within one segment (big_vision's rule)."""
    step = jnp.cumsum(mask_ar, axis=1)
    return (step[:, None, :] <= step[:, :, None]) & same_segment(segments, segments)


def smallest_example(encoder: bool) -> Example:
    """One row of one token, to initialise a network with."""
    token = jnp.ones((1, 1), jnp.int32)
    return Example(token, token, jnp.ones((1, 1)), token, encoder_input_tokens=token if encoder else None)
