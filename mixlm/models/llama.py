"""A decoder with rotary positions: Llama, BabyLlama, MiLe's LLaMA and the Dual-objective network, by plain options."""

import math
from dataclasses import field

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mixlm.errors import UserError
from mixlm.example import Example, smallest_example
from mixlm.models.attention.dispatch import View, mix, view_of
from mixlm.models.attention.dot_product import mask_bias
from mixlm.models.attention.masks import within
from mixlm.models.kv_cache import Cache, KeysValues, Slots, empty_cache, read, unless_overfull
from mixlm.models.layer_stack import Execution, init, stacked, through
from mixlm.models.layers import (
    Bias,
    Dense,
    Embed,
    GatedMLP,
    Initializer,
    LayerSizes,
    RMSNorm,
    check_positive,
    constrain,
    split_heads,
    truncated,
    without_encoder,
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
        mixed = mix(rotate(q, turn), *memory, view, scale=1.0 / math.sqrt(sizes.head_dim))
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
        """Applies the layer to `x`, which follows on `past` where it is given; also returns all keys and values."""
        sizes = self.sizes
        y = RMSNorm(sizes.dtype, self.epsilon, name="pre_self_attention_layer_norm")(x)
        attention = RotaryAttention(sizes, self.kernel_init, self.out_init, name="self_attention")
        y, memory = attention(y, turn, view, past)
        x = x + y
        y = RMSNorm(sizes.dtype, self.epsilon, name="pre_mlp_layer_norm")(x)
        x = x + GatedMLP(sizes, self.wi_init, self.out_init, name="mlp")(y)
        return constrain(x, "batch", "length", "embed"), memory


class Llama(nn.Module):
    """A decoder whose causality is data, with rotary positions, SwiGLU and RMS norms, and neither biases nor dropout.

    The default is Hugging Face's Llama. `rope_theta` and `epsilon` are those of the rotary positions and the norms,
    and `logits_via_embedding` ties the head to the embedding. `projection_head` puts `gelu(dense(D))` between the last
    norm and the vocabulary, and a bias onto the logits. `init_std` is the deviation of all initial matrices; None is
    the Dual-objective network's: truncated normals of sqrt(2/(5D)), sqrt(2/(D+V)) for embedding and vocabulary, and
    the MLP's first matrices smaller by sqrt(1/(2(i+1))) in layer i. `zero_init` starts what is added to the residual
    stream at zero. Parameters are float32; activations are `dtype`. Raises `UserError` for a size that cannot be.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_layers: int
    logits_via_embedding: bool = False
    dtype: str = "float32"
    rope_theta: float = 10000.0
    epsilon: float = 1e-6
    projection_head: bool = False
    init_std: float | None = 0.02
    zero_init: bool = False
    execution: Execution = field(default=Execution(), repr=False)  # no part of what a run computes

    init = init

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.sizes
        check_positive(vocab_size=self.vocab_size, num_layers=self.num_layers)
        check_rope(self.head_dim, self.rope_theta)
        for name in ("epsilon", "init_std"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} = {value} must be above zero.")

    @property
    def sizes(self) -> LayerSizes:
        """What every layer shares."""
        return LayerSizes(
            emb_dim=self.emb_dim,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim,
            mlp_activations=("silu", "linear"),
            dtype=self.dtype,
        )

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

    def inputs(self) -> tuple[Example]:
        """The smallest argument of `__call__`, with which the parameters are initialised."""
        return (smallest_example(encoder=False),)

    def hidden(self, example: Example) -> Float[Array, "B T D"]:
        """What the vocabulary's matrix reads: the last layer's output, normalised, and projected where that is asked.

        An example for an encoder-decoder is read as a prefix language model's: the encoder's input is the prefix.
        """
        whole = without_encoder(example)
        positions = whole.decoder_positions
        if positions is None:
            positions = jnp.arange(whole.decoder_input_tokens.shape[1])[None]
        reach = within(whole.decoder_mask_ar, whole.decoder_segments)
        seen = view_of(reach, self.execution.attention, self.dtype)
        x, _ = self.stack(whole.decoder_input_tokens, positions, seen)
        return x[:, -example.decoder_input_tokens.shape[1] :]

    def empty_cache(self, example: Example, length: int) -> Cache:
        """A cache of `length` slots for the example's rows; raises `UserError` where that is none."""
        rows = example.decoder_input_tokens.shape[0]
        return empty_cache(self.num_layers, rows, self.num_heads, length, self.head_dim, self.dtype)

    def extend(self, example: Example, cache: Cache) -> tuple[Float[Array, "B T D"], Cache]:
        """`hidden` of the tokens that follow on those in the cache, and the cache with them; see `cache.read`."""
        whole = without_encoder(example)
        cache, sees, positions = read(cache, whole)
        x, written = self.stack(whole.decoder_input_tokens, positions, mask_bias(sees), cache)
        x = unless_overfull(x, cache)
        return x[:, -example.decoder_input_tokens.shape[1] :], cache.keep(written)

    def stack(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "#B T"],
        view: View,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
        """Embeds, applies the layers and what comes before the vocabulary; also what every layer put into the cache."""
        turn = rotation(positions, self.head_dim, self.rope_theta)
        x, past = self.token_embedder(tokens), None if cache is None else cache.slots()
        x, written = through(self.layers, self.num_layers, self.execution, x, past, turn, view)
        x = self.decoder_norm(x)
        return (nn.gelu(self.projection(x)) if self.projection_head else x), written

    def logits(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 scores of any block of positions."""
        scores = self.token_embedder.score(hidden) if self.logits_via_embedding else self.logits_dense(hidden)
        return self.logits_bias(scores) if self.projection_head else scores

    def __call__(self, example: Example) -> Float[Array, "B T V"]:
        """All logits at once, which is how the parameters are initialised."""
        return self.logits(self.hidden(example))
