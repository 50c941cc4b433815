"""From a network to tokens: greedy decoding of an encoder-decoder's targets."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mixlm.example import Example
from mixlm.step import Net


@partial(jax.jit, static_argnames=("module", "length", "bos", "eos"))
def fill_spans(
    module: nn.Module,
    params: Any,
    inputs: Int[Array, "B S"],
    length: int,
    bos: int,
    eos: int,
    segments: Int[Array, "B S"] | None = None,
) -> Int[Array, "B T"]:
    """The likeliest token, `length` times, for encoder inputs [B, S]; what follows EOS is pad (0).

    Without `segments`, token 0 of the inputs is padding.
    """
    net = Net(module, params)
    rows = inputs.shape[0]

    def example(said: Int[Array, "B T"]) -> Example:
        return Example(
            encoder_input_tokens=inputs,
            encoder_segment_ids=segments,
            decoder_input_tokens=jnp.concatenate([jnp.full((rows, 1), bos, said.dtype), said[:, :-1]], axis=1),
            decoder_target_tokens=jnp.ones_like(said),
            decoder_loss_weights=jnp.zeros(said.shape),
            decoder_mask_ar=jnp.ones_like(said),
        )

    def say(place, carry):
        said, open_rows = carry
        hidden = net.decode(encoded, example(said))
        token = jnp.argmax(net.logits(hidden[:, place]), axis=-1).astype(said.dtype)
        said = said.at[:, place].set(jnp.where(open_rows, token, 0))
        return said, open_rows & (token != eos)

    nothing = jnp.zeros((rows, length), inputs.dtype)
    encoded = net.encode(example(nothing))
    return jax.lax.fori_loop(0, length, say, (nothing, jnp.ones(rows, bool)))[0]
