"""The encoder-decoder network of T5 1.0 and 1.1, with the parameter tree of T5X."""

from dataclasses import field
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mixlm.errors import UserError
from mixlm.example import Example, smallest_example
from mixlm.models.attention.dispatch import View, make_biased_view
from mixlm.models.attention.dot_product import mask_bias
from mixlm.models.attention.masks import AttentionMask, cross_mask, self_mask
from mixlm.models.base import TokenNetwork
from mixlm.models.kv_cache import Cache, KeysValues, Slots, empty_cache, nan_if_overfull, reserve
from mixlm.models.layer_stack import Execution, apply_layers, map_layers, stacked
from mixlm.models.layers import (
    Attention,
    Dense,
    Dropout,
    Embed,
    GatedMLP,
    LayerSizes,
    RMSNorm,
    check_positive,
    constrain,
)
from mixlm.models.relative_position import RelativeBias, check_buckets
from mixlm.parallel.logical_axes import in_force


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and MLP, each added to the residual stream."""

    sizes: LayerSizes

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], past: None, view: View) -> tuple[Float[Array, "B S D"], None]:
        """Applies the layer, which has no cache."""
        sizes = self.sizes
        y = RMSNorm(sizes.dtype, name="pre_attention_layer_norm")(x)
        x = x + Dropout(sizes.dropout_rate)(Attention(sizes, name="attention")(y, y, view))
        y = RMSNorm(sizes.dtype, name="pre_mlp_layer_norm")(x)
        x = x + Dropout(sizes.dropout_rate)(GatedMLP(sizes, name="mlp")(y))
        return constrain(x, "batch", "length", "embed"), None


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, attention to the encoder, and MLP, each added to the residual stream."""

    sizes: LayerSizes

    def setup(self) -> None:
        """Names the parts as T5X does."""
        sizes = self.sizes
        self.pre_self_attention_layer_norm = RMSNorm(sizes.dtype)
        self.self_attention = Attention(sizes)
        self.pre_cross_attention_layer_norm = RMSNorm(sizes.dtype)
        self.encoder_decoder_attention = Attention(sizes)
        self.pre_mlp_layer_norm = RMSNorm(sizes.dtype)
        self.mlp = GatedMLP(sizes)
        self.dropouts = [Dropout(sizes.dropout_rate) for _ in range(3)]

    def encoder_memory(self, encoded: Float[Array, "B R D"]) -> KeysValues:
        """Keys and values of the encoder's output for this layer."""
        return self.encoder_decoder_attention.keys_values(encoded)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        past: Slots | None,
        encoded: Any,  # Float[Array, "B R D"], or None with a cache
        view: View,
        cross_view: View,
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """Applies the layer to `x`, which continues `past` where it is given; also returns all keys and values.

        Keys and values of the encoder's output are in `past`, or computed from `encoded`.
        """
        encoder_memory = self.encoder_memory(encoded) if past is None or past.encoder is None else past.encoder
        y = self.pre_self_attention_layer_norm(x)
        memory = self.self_attention.keys_values(y)
        if past is not None:
            memory = past.write(*memory)
        x = x + self.dropouts[0](self.self_attention.attend(y, memory, view))
        y = self.pre_cross_attention_layer_norm(x)
        x = x + self.dropouts[1](self.encoder_decoder_attention.attend(y, encoder_memory, cross_view))
        x = x + self.dropouts[2](self.mlp(self.pre_mlp_layer_norm(x)))
        return constrain(x, "batch", "length", "embed"), memory


class Encoder(nn.Module):
    """A stack of encoder layers over embedded tokens."""

    sizes: LayerSizes
    num_layers: int
    num_buckets: int
    max_distance: int
    execution: Execution

    def setup(self) -> None:
        """Names the parts as T5X does."""
        sizes = self.sizes
        self.relpos_bias = RelativeBias(sizes.num_heads, self.num_buckets, self.max_distance, True)
        self.layers = stacked(lambda _: EncoderLayer(sizes), self.num_layers, self.execution)
        self.encoder_norm = RMSNorm(sizes.dtype)
        # Dropout noise depends on these names.
        self.input_dropout = Dropout(sizes.dropout_rate, name="Dropout_0")
        # T5X shares this mask along no axis, unlike all others.
        self.output_dropout = Dropout(sizes.dropout_rate, shared=(), name="Dropout_1")

    def __call__(
        self, x: Float[Array, "B S D"], segments: Int[Array, "B S"], positions: Int[Array, "B S"] | None
    ) -> Float[Array, "B S D"]:
        """Encodes each segment bidirectionally."""
        bias, how = self.relpos_bias(x.shape[1], positions), self.execution.attending
        view = make_biased_view(self.sizes, cross_mask(segments, segments), bias, *how)
        x, _ = apply_layers(self.layers, self.num_layers, self.execution, self.input_dropout(x), None, view)
        return self.output_dropout(self.encoder_norm(x))


class Decoder(nn.Module):
    """A stack of decoder layers over embedded tokens and an encoder's output, and the untied head."""

    sizes: LayerSizes
    num_layers: int
    num_buckets: int
    max_distance: int
    vocab_size: int
    tied: bool
    execution: Execution

    def setup(self) -> None:
        """Names the parts as T5X does."""
        sizes = self.sizes
        self.relpos_bias = RelativeBias(sizes.num_heads, self.num_buckets, self.max_distance, False)
        self.layers = stacked(lambda _: DecoderLayer(sizes), self.num_layers, self.execution)
        self.decoder_norm = RMSNorm(sizes.dtype)
        self.input_dropout = Dropout(sizes.dropout_rate)
        self.output_dropout = Dropout(sizes.dropout_rate)
        if not self.tied:
            self.logits_dense = Dense(self.vocab_size, ("embed", "vocab"))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"] | None,
        mask: AttentionMask,
        encoded: Float[Array, "B R D"] | None,
        to_encoder: AttentionMask,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
        """(hidden states, every layer's keys and values where there is a cache).

        `encoded` is None with a cache, which has the keys and values of the encoder's output.
        """
        view = self.relpos_bias.view(self.sizes, self.execution, mask, positions, cache)
        if cache is None:
            cross_view, past = make_biased_view(self.sizes, to_encoder, None, *self.execution.attending), None
        else:
            cross_view, past = mask_bias(to_encoder.dense()), cache.slots()
        x = self.input_dropout(x)
        x, written = apply_layers(self.layers, self.num_layers, self.execution, x, past, encoded, view, cross_view)
        return self.output_dropout(self.decoder_norm(x)), written

    def encoder_memory(self, encoded: Float[Array, "B R D"]) -> tuple[KeysValues, ...]:
        """Every layer's keys and values of the encoder's output."""
        return tuple(
            map_layers(lambda layer: layer.encoder_memory(encoded), self.layers, self.num_layers, self.execution)
        )

    def logits(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 logits by the untied head."""
        return self.logits_dense(hidden)


class EncoderDecoder(TokenNetwork):
    """T5: T5 1.1 by default; T5 1.0 is `mlp_activations=("relu",), logits_via_embedding=True`.

    Parameters are float32 in T5X's tree; activations are `dtype`. The encoder reads in both directions, the decoder by
    the example's `decoder_mask_ar`, with one-directional relative buckets. Dropout is active where a "dropout" rng is
    given. Raises `UserError` for an invalid size, rate or name.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.0
    logits_via_embedding: bool = False
    dtype: str = "float32"
    num_buckets: int = 32
    max_distance: int = 128
    execution: Execution = field(default=Execution(), repr=False)  # no part of a run's identity

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.sizes
        check_positive(
            vocab_size=self.vocab_size,
            num_encoder_layers=self.num_encoder_layers,
            num_decoder_layers=self.num_decoder_layers,
        )
        check_buckets(self.num_buckets, self.max_distance, bidirectional=True)

    def setup(self) -> None:
        """Names the parts as T5X does."""
        buckets = (self.num_buckets, self.max_distance)
        self.token_embedder = Embed(self.vocab_size, self.emb_dim, self.dtype)
        self.encoder = Encoder(self.sizes, self.num_encoder_layers, *buckets, self.execution)
        self.decoder = Decoder(
            self.sizes,
            self.num_decoder_layers,
            *buckets,
            self.vocab_size,
            self.logits_via_embedding,
            self.execution,
        )

    def inputs(self) -> tuple[Example]:
        """Arguments of `__call__` to initialise the parameters with: one position."""
        return (smallest_example(encoder=True),)

    def encode(self, example: Example) -> Float[Array, "B S D"]:
        """The encoder's output; raises `UserError` for an example without `encoder_input_tokens`."""
        x = self.token_embedder(example.encoder_tokens)
        return self.encoder(x, example.encoder_segments, example.encoder_positions)

    def decode(self, encoded: Float[Array, "B S D"], example: Example) -> Float[Array, "B T D"]:
        """The decoder's output over an encoder's output, which other heads may read as well."""
        return self.decode_embedded(self.token_embedder(example.decoder_input_tokens), encoded, example)

    def decode_embedded(
        self, x: Float[Array, "B T D"], encoded: Float[Array, "B S D"], example: Example
    ) -> Float[Array, "B T D"]:
        """`decode` of tokens that are embedded already."""
        mask = self_mask(example.decoder_mask_ar, example.decoder_segments)
        to_encoder = cross_mask(example.decoder_segments, example.encoder_segments)
        return self.decoder(x, example.decoder_positions, mask, encoded, to_encoder)[0]

    def hidden(self, example: Example) -> Float[Array, "B T D"]:
        """The decoder's output before the head, `decode(encode(example), example)`."""
        layout, tokens = in_force(), example.encoder_tokens
        if layout is not None and layout.parts("length") > 1:
            return self.decode(self.encode(example), example)
        # Both sides at once [B, S + T]: the gradient of the table, as large as itself, is made once instead of summed.
        both = self.token_embedder(jnp.concatenate([tokens, example.decoder_input_tokens], axis=1))
        x, y = both[:, : tokens.shape[1]], both[:, tokens.shape[1] :]
        encoded = self.encoder(x, example.encoder_segments, example.encoder_positions)
        return self.decode_embedded(y, encoded, example)

    def empty_cache(self, example: Example, length: int) -> Cache:
        """A cache of `length` slots for the example's rows, with the encoder's output, computed once."""
        return self.empty_cache_from(self.encode(example), example, length)

    def empty_cache_from(self, encoded: Float[Array, "B S D"], example: Example, length: int) -> Cache:
        """`empty_cache` over an encoder's output; raises `UserError` where `length` is below one."""
        rows = encoded.shape[0]
        cache = empty_cache(self.num_decoder_layers, rows, self.num_heads, length, self.head_dim, self.dtype)
        return cache.with_encoder(self.decoder.encoder_memory(encoded), example.encoder_segments)

    def extend(self, example: Example, cache: Cache) -> tuple[Float[Array, "B T D"], Cache]:
        """`hidden` of the tokens that follow those in the cache, and the cache with them; see `kv_cache.reserve`."""
        if cache.encoder_segments is None:
            raise UserError("This cache holds no encoder's side: an encoder-decoder's comes from its own empty_cache.")
        cache, mask, positions = reserve(cache, example)
        to_encoder = cross_mask(example.decoder_segments, cache.encoder_segments)
        x = self.token_embedder(example.decoder_input_tokens)
        x, written = self.decoder(x, positions, mask, None, to_encoder, cache)
        return nan_if_overfull(x, cache), cache.with_layers(written)

    def logits(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 logits of any block of positions."""
        if self.logits_via_embedding:
            return self.token_embedder.attend(hidden)
        return self.decoder.logits(hidden)
