"""Example: a batch as objectives make it and networks read it, in T5X's feature names."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

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
        """Contribution of each position to the count that the mean divides by."""
        if self.decoder_loss_counts is not None:
            return self.decoder_loss_counts
        return (self.decoder_loss_weights > 0).astype(jnp.float32)

    @property
    def encoder_tokens(self) -> Int[Array, "B S"]:
        """The encoder's input; UserError where there is none."""
        if self.encoder_input_tokens is None:
            raise UserError("This network has an encoder, and the objective's examples have no encoder_input_tokens.")
        return self.encoder_input_tokens

    @property
    def encoder_segments(self) -> Int[Array, "B S"]:
        """Segment ids of the encoder's positions, 0 where padded."""
        if self.encoder_segment_ids is not None:
            return self.encoder_segment_ids
        return (self.encoder_tokens > 0).astype(jnp.int32)


def smallest_example(encoder: bool) -> Example:
    """One row of one token, to initialise a network with."""
    token = jnp.ones((1, 1), jnp.int32)
    return Example(token, token, jnp.ones((1, 1)), token, encoder_input_tokens=token if encoder else None)
