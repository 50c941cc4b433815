"""Methods that networks share: initialisation, logits of whole examples, KV caches, prefixes in place of encoders."""

from dataclasses import fields
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mixlm.example import Example, smallest_example
from mixlm.models import layer_stack
from mixlm.models.attention.masks import AttentionMask, same_segment, self_mask
from mixlm.models.kv_cache import Cache, KeysValues, empty_cache, nan_if_overfull, reserve
from mixlm.models.layers import LayerSizes, check_positive


class TokenNetwork(nn.Module):
    """A network that predicts tokens; a subclass has `execution`, `hidden` and `logits`."""

    init = layer_stack.init

    @property
    def sizes(self) -> LayerSizes:
        """The fields that all layers share."""
        return self.layer_sizes()

    @nn.nowrap
    def layer_sizes(self, **fixed: Any) -> LayerSizes:
        """The fields of this network that LayerSizes has, and `fixed` ones."""
        names = {field.name for field in fields(LayerSizes)} & {field.name for field in fields(self)}
        return LayerSizes(**{name: getattr(self, name) for name in names}, **fixed)

    def hidden(self, example: Example) -> Float[Array, "B T D"]:
        """Hidden states of the decoder's positions, before the head."""
        raise NotImplementedError

    def logits(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 logits of any block of positions."""
        raise NotImplementedError

    def __call__(self, example: Example) -> Float[Array, "B T V"]:
        """All logits at once; parameters are initialised by it."""
        return self.logits(self.hidden(example))


class DecoderNetwork(TokenNetwork):
    """A network without an encoder, whose causality is data (`decoder_mask_ar`).

    An example for an encoder-decoder is read as a prefix language model's: the encoder's input is the prefix. A
    subclass has `dtype`, `execution`, `apply_stack` and `logits`.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_layers: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.sizes
        check_positive(vocab_size=self.vocab_size, num_layers=self.num_layers)

    def apply_stack(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None,
        mask: AttentionMask,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
        """(hidden states, every layer's keys and values where there is a cache); positions None are the index."""
        raise NotImplementedError

    @nn.nowrap
    def inputs(self) -> tuple[Example]:
        """Arguments of `__call__` to initialise the parameters with: one token."""
        return (smallest_example(encoder=False),)

    def hidden(self, example: Example) -> Float[Array, "B T D"]:
        """Hidden states of the decoder's positions, before the head."""
        whole = encoder_as_prefix(example)  # [B, S + T] where the example has an encoder's side, else [B, T]
        mask = self_mask(whole.decoder_mask_ar, whole.decoder_segments)
        x, _ = self.apply_stack(whole.decoder_input_tokens, whole.decoder_positions, mask)
        return x[:, -example.decoder_input_tokens.shape[1] :]

    @nn.nowrap
    def empty_cache(self, example: Example, length: int) -> Cache:
        """A cache of `length` slots for the example's rows; raises `UserError` where that is none."""
        rows = example.decoder_input_tokens.shape[0]
        return empty_cache(self.num_layers, rows, self.num_heads, length, self.head_dim, self.dtype)

    def extend(self, example: Example, cache: Cache) -> tuple[Float[Array, "B T D"], Cache]:
        """`hidden` of the tokens that follow those in the cache, and the cache with them; see `kv_cache.reserve`."""
        whole = encoder_as_prefix(example)
        cache, mask, positions = reserve(cache, whole)
        x, written = self.apply_stack(whole.decoder_input_tokens, positions, mask, cache)
        x = nan_if_overfull(x, cache)
        return x[:, -example.decoder_input_tokens.shape[1] :], cache.with_layers(written)


def encoder_as_prefix(example: Example) -> Example:
    """The example with its encoder input, if any, as a bidirectional, unscored prefix of the decoder's side."""
    if example.encoder_input_tokens is None:
        return example
    prefix = example.encoder_tokens
    segments, scored = example.encoder_segments, example.decoder_segments
    # The first decoder position opens a causal step, so that the prefix cannot see it.
    mask_ar = example.decoder_mask_ar.at[:, 0].set(1)

    def beside(left: Array, right: Array) -> Array:
        return jnp.concatenate([left, right.astype(left.dtype)], axis=1)

    positions = None
    if example.encoder_positions is not None and example.decoder_positions is not None:
        # Each document's targets continue where its own inputs end.
        ends = jnp.sum(same_segment(scored, segments), axis=2)
        positions = beside(example.encoder_positions, example.decoder_positions + ends)
    return Example(
        decoder_input_tokens=beside(prefix, example.decoder_input_tokens),
        decoder_target_tokens=beside(prefix, example.decoder_target_tokens),
        decoder_loss_weights=beside(jnp.zeros(prefix.shape), example.decoder_loss_weights),
        decoder_mask_ar=beside(jnp.zeros_like(prefix), mask_ar),
        decoder_segment_ids=beside(segments, scored),
        decoder_positions=positions,
        decoder_loss_counts=beside(jnp.zeros(prefix.shape), example.loss_counts),
    )
