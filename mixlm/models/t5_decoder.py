"""The decoder-only network in T5's shape, with the parameter tree of T5X's decoder-only example."""

from dataclasses import field

from flax import linen as nn
from jaxtyping import Array, Float, Int

from mixlm.models.attention.dispatch import View
from mixlm.models.attention.masks import AttentionMask
from mixlm.models.base import DecoderNetwork
from mixlm.models.kv_cache import Cache, KeysValues, Slots
from mixlm.models.layer_stack import Execution, apply_layers, stacked
from mixlm.models.layers import Attention, Dense, Dropout, Embed, GatedMLP, LayerSizes, RMSNorm, constrain
from mixlm.models.relative_position import RelativeBias, check_buckets


class DecoderLayer(nn.Module):
    """Pre-norm self-attention and MLP, each added to the residual stream."""

    sizes: LayerSizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], past: Slots | None, view: View
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """Applies the layer to `x`, which continues `past` where it is given; also returns all keys and values."""
        sizes = self.sizes
        y = RMSNorm(sizes.dtype, name="pre_self_attention_layer_norm")(x)
        attention = Attention(sizes, name="self_attention")
        memory = attention.keys_values(y)
        if past is not None:
            memory = past.write(*memory)
        x = x + Dropout(sizes.dropout_rate)(attention.attend(y, memory, view))
        y = RMSNorm(sizes.dtype, name="pre_mlp_layer_norm")(x)
        x = x + Dropout(sizes.dropout_rate)(GatedMLP(sizes, name="mlp")(y))
        return constrain(x, "batch", "length", "embed"), memory


class Decoder(nn.Module):
    """Embedding, layers and head, in the one scope "decoder" of T5X's tree."""

    sizes: LayerSizes
    num_layers: int
    num_buckets: int
    max_distance: int
    bidirectional_bias: bool
    vocab_size: int
    tied: bool
    execution: Execution

    def setup(self) -> None:
        """Names the parts as T5X does."""
        sizes = self.sizes
        self.token_embedder = Embed(self.vocab_size, sizes.emb_dim, sizes.dtype)
        self.relpos_bias = RelativeBias(sizes.num_heads, self.num_buckets, self.max_distance, self.bidirectional_bias)
        self.layers = stacked(lambda _: DecoderLayer(sizes), self.num_layers, self.execution)
        self.decoder_norm = RMSNorm(sizes.dtype)
        self.input_dropout = Dropout(sizes.dropout_rate)
        self.output_dropout = Dropout(sizes.dropout_rate)
        if not self.tied:
            self.logits_dense = Dense(self.vocab_size, ("embed", "vocab"))

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None,
        mask: AttentionMask,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
        """Embeds, applies the layers and the last norm; also returns every layer's keys and values for the cache."""
        view = self.relpos_bias.view(self.sizes, self.execution, mask, positions, cache)
        x, past = self.input_dropout(self.token_embedder(tokens)), None if cache is None else cache.slots()
        x, written = apply_layers(self.layers, self.num_layers, self.execution, x, past, view)
        return self.output_dropout(self.decoder_norm(x)), written

    def logits(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 logits by the tied or the untied head."""
        return self.token_embedder.attend(hidden) if self.tied else self.logits_dense(hidden)


class DecoderOnly(DecoderNetwork):
    """A T5-shaped decoder whose causality is data: causal, prefix and bidirectional rows share one forward.

    `bidirectional_bias` tells the future's distances apart; False is T5X's network, whose one-directional buckets
    collapse wherever a mask looks ahead. Parameters are float32 in T5X's tree; activations are `dtype`. Dropout is
    active where a "dropout" rng is given. Raises `UserError` for an invalid size, rate or name.
    """

    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.0
    logits_via_embedding: bool = False
    dtype: str = "float32"
    num_buckets: int = 32
    max_distance: int = 128
    bidirectional_bias: bool = True
    execution: Execution = field(default=Execution(), repr=False)  # no part of a run's identity

    def __post_init__(self) -> None:
        super().__post_init__()
        check_buckets(self.num_buckets, self.max_distance, bidirectional=self.bidirectional_bias)

    def setup(self) -> None:
        """Puts everything into T5X's scope."""
        self.decoder = Decoder(
            sizes=self.sizes,
            num_layers=self.num_layers,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
            bidirectional_bias=self.bidirectional_bias,
            vocab_size=self.vocab_size,
            tied=self.logits_via_embedding,
            execution=self.execution,
        )

    def apply_stack(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None,
        mask: AttentionMask,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
        """The output of the last norm, and every layer's keys and values where there is a cache."""
        return self.decoder(tokens, positions, mask, cache)

    def logits(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 logits of any block of positions."""
        return self.decoder.logits(hidden)
