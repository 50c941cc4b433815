"""A decoder with rotary positions: Llama, BabyLlama, MiLe's LLaMA and the network of the Dual paper, by options."""

import math
from dataclasses import field

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mixlm.errors import UserError
from mixlm.models.attention.dispatch import View, attention, make_view
from mixlm.models.attention.dot_product import mask_bias
from mixlm.models.attention.masks import AttentionMask
from mixlm.models.base import DecoderNetwork
from mixlm.models.kv_cache import Cache, KeysValues, Slots
from mixlm.models.layer_stack import Execution, apply_layers, stacked
from mixlm.models.layers import (
    Bias,
    Dense,
    Embed,
    GatedMLP,
    Initializer,
    LayerSizes,
    RMSNorm,
    constrain,
    split_heads,
    truncated,
)
from mixlm.models.rope import Rotation, check_rope, rotate, rotation


class RotaryAttention(nn.Module):
    """Multi-head attention, `softmax(rot(q) rot(k)' / sqrt(K)) v` within the mask; no biases."""

    sizes: LayerSizes
    kernel_init: Initializer
    out_init: Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], turn: Rotation, view: View, past: Slots | None
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """Attends from `x` to itself and to `past`; also returns all keys, rotated, and values."""
        sizes = self.sizes

        def heads(name: str, length: str | None) -> Float[Array, "B H T K"]:
            joined, axes = sizes.num_heads * sizes.head_dim, ("embed", "joined_kv")
            return split_heads(Dense(joined, axes, self.kernel_init, sizes.dtype, name=name)(x), sizes, length)

        q, k, v = heads("query", "length"), heads("key", None), heads("value", None)
        memory = (rotate(k, turn), v)
        if past is not None:
            memory = past.write(*memory)
        mixed = attention(rotate(q, turn), *memory, view, scale=1.0 / math.sqrt(sizes.head_dim))
        return Dense(sizes.emb_dim, ("joined_kv", "embed"), self.out_init, sizes.dtype, name="out")(mixed), memory


class LlamaLayer(nn.Module):
    """Pre-norm rotary attention and SwiGLU, each added to the residual stream."""

    sizes: LayerSizes
    epsilon: float
    kernel_init: Initializer
    wi_init: Initializer
    out_init: Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], past: Slots | None, turn: Rotation, view: View
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """Applies the layer to `x`, which continues `past` where it is given; also returns all keys and values."""
        sizes = self.sizes
        y = RMSNorm(sizes.dtype, self.epsilon, name="pre_self_attention_layer_norm")(x)
        attention = RotaryAttention(sizes, self.kernel_init, self.out_init, name="self_attention")
        y, memory = attention(y, turn, view, past)
        x = x + y
        y = RMSNorm(sizes.dtype, self.epsilon, name="pre_mlp_layer_norm")(x)
        x = x + GatedMLP(sizes, self.wi_init, self.out_init, name="mlp")(y)
        return constrain(x, "batch", "length", "embed"), memory


class Llama(DecoderNetwork):
    """A decoder whose causality is data, with rotary positions, SwiGLU and RMS norms, and neither biases nor dropout.

    The default is Hugging Face's Llama. `rope_theta` and `epsilon` are those of the rotary positions and the norms,
    and `logits_via_embedding` ties the head to the embedding. `projection_head` puts `gelu(dense(D))` between the last
    norm and the vocabulary, and a bias onto the logits. `init_std` is the deviation of all initial matrices; None is
    the Dual-objective network's: truncated normals of sqrt(2/(5D)), sqrt(2/(D+V)) for embedding and vocabulary, and
    the MLP's first matrices smaller by sqrt(1/(2(i+1))) in layer i. `zero_init` starts what is added to the residual
    stream at zero. Parameters are float32; activations are `dtype`. Raises `UserError` for an invalid size.
    """

    logits_via_embedding: bool = False
    dtype: str = "float32"
    rope_theta: float = 10000.0
    epsilon: float = 1e-6
    projection_head: bool = False
    init_std: float | None = 0.02
    zero_init: bool = False
    execution: Execution = field(default=Execution(), repr=False)  # no part of a run's identity

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rope(self.head_dim, self.rope_theta)
        for name in ("epsilon", "init_std"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} = {value} must be above zero.")

    @property
    def sizes(self) -> LayerSizes:
        """The fields that all layers share; the MLP is SwiGLU."""
        return self.layer_sizes(mlp_activations=("silu", "linear"))

    def initializer(self, fan: int, scale: float = 1.0) -> Initializer:
        """Normal with `init_std`, or truncated with sqrt(2/fan) times `scale`."""
        if self.init_std is None:
            return truncated(math.sqrt(2.0 / fan) * scale)
        return nn.initializers.normal(stddev=self.init_std)

    def setup(self) -> None:
        """Names the parts after T5X's."""
        kernel_init, vocab_init = self.initializer(5 * self.emb_dim), self.initializer(self.emb_dim + self.vocab_size)
        out_init = nn.initializers.zeros if self.zero_init else kernel_init
        self.token_embedder = Embed(self.vocab_size, self.emb_dim, self.dtype, vocab_init)

        def layer(index: int) -> LlamaLayer:
            wi_init = self.initializer(5 * self.emb_dim, math.sqrt(0.5 / (index + 1)))
            return LlamaLayer(self.sizes, self.epsilon, kernel_init, wi_init, out_init)

        self.layers = stacked(layer, self.num_layers, self.execution)
        self.decoder_norm = RMSNorm(self.dtype, self.epsilon)
        if self.projection_head:
            self.projection = Dense(self.emb_dim, ("embed", "mlp"), kernel_init, self.dtype)
            self.logits_bias = Bias("vocab")
        if not self.logits_via_embedding:
            self.logits_dense = Dense(self.vocab_size, ("embed", "vocab"), vocab_init)

    def apply_stack(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None,
        mask: AttentionMask,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
        """The last norm's output, projected where there is a `projection_head`; and keys and values for a cache."""
        if cache is None:
            view, past = make_view(self.sizes, mask, self.execution.attention), None
        else:
            view, past = mask_bias(mask.dense()), cache.slots()
        places = jnp.arange(tokens.shape[1])[None] if positions is None else positions
        turn = rotation(places, self.head_dim, self.rope_theta)
        x = self.token_embedder(tokens)
        x, written = apply_layers(self.layers, self.num_layers, self.execution, x, past, turn, view)
        x = self.decoder_norm(x)
        return (nn.gelu(self.projection(x)) if self.projection_head else x), written

    def logits(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 logits of any block of positions."""
        scores = self.token_embedder.score(hidden) if self.logits_via_embedding else self.logits_dense(hidden)
        return self.logits_bias(scores) if self.projection_head else scores
