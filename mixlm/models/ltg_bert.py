"""LTG-BERT (BabyLM): disentangled relative attention, GEGLU and normalisation before and after sublayers."""

import math
from dataclasses import field
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mixlm.errors import UserError
from mixlm.models.attention.dispatch import attention
from mixlm.models.attention.dot_product import mask_bias
from mixlm.models.attention.masks import AttentionMask
from mixlm.models.base import DecoderNetwork
from mixlm.models.kv_cache import Cache, KeysValues, Slots
from mixlm.models.layer_stack import Execution, apply_layers, stacked
from mixlm.models.layers import (
    Bias,
    Dense,
    Dropout,
    Embed,
    Initializer,
    LayerSizes,
    constrain,
    split_heads,
    truncated,
)
from mixlm.models.relative_position import check_log_buckets, log_buckets


def small_normal(emb_dim: int, scale: float = 1.0) -> Initializer:
    """Initialiser of matrices and embeddings: truncated normal, standard deviation `scale * sqrt(2/(5D))`."""
    return truncated(math.sqrt(2.0 / (5.0 * emb_dim)) * scale)


def norm(dtype: str, epsilon: float, *, affine: bool = False) -> nn.LayerNorm:
    """A layer norm, with a gain and a bias for each feature of the residual stream where `affine`."""
    return nn.LayerNorm(
        epsilon=epsilon,
        dtype=dtype,
        use_scale=affine,
        use_bias=affine,
        use_fast_variance=False,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("embed",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
    )


class DisentangledAttention(nn.Module):
    """Attention with content-to-content, content-to-position and position-to-content scores, and a norm on the output.

    `(q_t k_s + q_t K(r_ts) + Q(r_ts) k_s) / sqrt(3K)` where r_ts is the relative embedding of t - s, and Q and K are
    the projections that queries and keys have as well. `epsilon` is the norm's.
    """

    sizes: LayerSizes
    epsilon: float
    affine: ClassVar[bool] = True  # whether the norm has a gain and a bias

    def setup(self) -> None:
        """Four projections with biases."""
        sizes = self.sizes
        self.query, self.key, self.value = (self.projection() for _ in range(3))
        init = small_normal(sizes.emb_dim)
        self.out = Dense(sizes.emb_dim, ("joined_kv", "embed"), init, sizes.dtype, use_bias=True)
        self.post_layer_norm = norm(sizes.dtype, self.epsilon, affine=self.affine)
        self.dropouts = [Dropout(sizes.dropout_rate, shared=()) for _ in range(3)]

    def __call__(
        self,
        x: Float[Array, "B T D"],
        relative: Float[Array, "R D"],
        rows: Int[Array, "#B T S"],
        mask: Bool[Array, "B T S"],
        past: Slots | None,
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """Attends from `x` to itself and to `past`; `rows` are those of `relative`; also returns keys and values."""
        sizes = self.sizes
        q = split_heads(self.query(x), sizes)
        k, v = (split_heads(project(x), sizes, None) for project in (self.key, self.value))
        memory = (k, v) if past is None else past.write(k, v)
        near = self.dropouts[0](relative)[None]
        query_rows, key_rows = (split_heads(project(near), sizes, None)[0] for project in (self.query, self.key))
        scale = 1.0 / math.sqrt(3.0 * sizes.head_dim)
        positional = by_rows(q, key_rows, rows) + by_rows(memory[0], query_rows, rows.mT).mT
        view, drop = mask_bias(mask) + positional * scale, self.dropouts[1]
        mixed = attention(q, *memory, view, scale=scale, drop=drop if drop.active else None)
        return self.dropouts[2](self.output(mixed, x)), memory

    @nn.nowrap
    def projection(self) -> Dense:
        """A linear map with a bias onto all heads, side by side."""
        sizes, init = self.sizes, small_normal(self.sizes.emb_dim)
        joined = sizes.num_heads * sizes.head_dim
        return Dense(joined, ("embed", "joined_kv"), init, sizes.dtype, use_bias=True)

    def output(self, mixed: Float[Array, "B T J"], x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The output for the residual stream, from the mixed values and the attention's input."""
        return self.post_layer_norm(self.out(mixed))


def by_rows(
    x: Float[Array, "B H T K"], embeddings: Float[Array, "H R K"], rows: Int[Array, "#B T S"]
) -> Float[Array, "B H T S"]:
    """Float32 products of each vector with the embedding in row `rows[t, s]`."""
    products = jnp.einsum("bhtk,hrk->bhtr", x, embeddings, preferred_element_type=jnp.float32)
    return jnp.take_along_axis(products, rows[:, None], axis=-1)


class GEGLU(nn.Module):
    """`wo(norm(gelu(wi_0(x)) * wi_1(x)))` with the tanh approximation, no biases; layer `index` counts from 0.

    The initial matrices are smaller by sqrt(1/(2(index + 1))).
    """

    sizes: LayerSizes
    epsilon: float
    index: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Maps every position on its own."""
        sizes, init = self.sizes, small_normal(self.sizes.emb_dim, math.sqrt(0.5 / (self.index + 1)))
        gate, y = (Dense(sizes.mlp_dim, ("embed", "mlp"), init, sizes.dtype, name=f"wi_{i}")(x) for i in range(2))
        y = constrain(nn.gelu(gate) * y, "batch", "length", "mlp")
        y = Dense(sizes.emb_dim, ("mlp", "embed"), init, sizes.dtype, name="wo")(norm(sizes.dtype, self.epsilon)(y))
        return Dropout(sizes.dropout_rate, shared=())(y)


class LTGBertLayer(nn.Module):
    """Attention and MLP, each on the normalised residual stream and added to it."""

    sizes: LayerSizes
    epsilon: float
    index: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        past: Slots | None,
        relative: Float[Array, "R D"],
        rows: Int[Array, "#B T S"],
        mask: Bool[Array, "B T S"],
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """Applies the layer to `x`, which continues `past` where it is given; also returns all keys and values."""
        sizes = self.sizes
        attention = DisentangledAttention(sizes, self.epsilon, name="self_attention")
        y, memory = attention(norm(sizes.dtype, self.epsilon)(x), relative, rows, mask, past)
        x = x + y
        x = x + GEGLU(sizes, self.epsilon, self.index, name="mlp")(norm(sizes.dtype, self.epsilon)(x))
        return constrain(x, "batch", "length", "embed"), memory


class LTGBert(DecoderNetwork):
    """LTG-BERT, whose causality is data: the same weights are causal, bidirectional or prefix language models.

    After ltgoslo/ltg-bert, its BabyLM model: arXiv 2303.09859. `num_buckets` and `max_position` shape the relative
    positions (`log_buckets`), so that any length can be read; `epsilon` is that of all norms. The head is
    `norm(gelu(dense(norm(x))))` on the tied embedding, with a bias. Parameters are float32; activations are `dtype`.
    Dropout is active where a "dropout" rng is given. Raises `UserError` for an invalid size, rate or name.
    """

    num_buckets: int = 32
    max_position: int = 512
    dropout_rate: float = 0.0
    epsilon: float = 1e-7
    dtype: str = "float32"
    execution: Execution = field(default=Execution(), repr=False)  # no part of a run's identity
    layer: ClassVar[type[nn.Module]] = LTGBertLayer

    def __post_init__(self) -> None:
        super().__post_init__()
        check_log_buckets(self.num_buckets, self.max_position)
        if self.epsilon <= 0:
            raise UserError(f"epsilon = {self.epsilon} must be above zero.")

    def setup(self) -> None:
        """Names the parts after T5X's where T5 has them."""
        sizes, init = self.sizes, small_normal(self.emb_dim)
        self.token_embedder = Embed(self.vocab_size, self.emb_dim, self.dtype, init)
        self.word_norm = norm(self.dtype, self.epsilon)
        rows = 2 * self.num_buckets - 1
        boxed = nn.with_logical_partitioning(init, ("relpos_buckets", "embed"))
        self.relative_embedding = self.param("relative_embedding", boxed, (rows, self.emb_dim), jnp.float32)
        self.relative_layer_norm = norm(self.dtype, self.epsilon, affine=True)
        layer = self.layer
        self.layers = stacked(lambda index: layer(sizes, self.epsilon, index), self.num_layers, self.execution)
        self.head_norms = [norm(self.dtype, self.epsilon) for _ in range(2)]
        self.head_dense = Dense(self.emb_dim, ("embed", "mlp"), init, self.dtype, use_bias=True)
        self.logits_bias = Bias("vocab")
        self.dropouts = [Dropout(self.dropout_rate, shared=()) for _ in range(2)]

    def apply_stack(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None,
        mask: AttentionMask,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
        """The head's dense layer over the last layer, with its two norms; and keys and values for a cache."""
        places = jnp.arange(tokens.shape[1])[None] if positions is None else positions
        rows = self.rows(places, places if cache is None else cache.positions)
        x, past = (
            self.dropouts[0](self.word_norm(self.token_embedder(tokens))),
            None if cache is None else cache.slots(),
        )
        relative = self.relative_layer_norm(jnp.asarray(self.relative_embedding))
        x, written = self.apply_layers(x, past, relative, rows, mask.dense())
        # The head's gelu is exact, unlike the layers'.
        x = nn.gelu(self.head_dense(self.head_norms[0](x)), approximate=False)
        return self.dropouts[1](self.head_norms[1](x)), written

    def apply_layers(self, x: Any, past: list[Slots] | None, *shared: Any) -> tuple[Any, list[KeysValues]]:
        """The last layer's output, and keys and values for a cache."""
        return apply_layers(self.layers, self.num_layers, self.execution, x, past, *shared)

    def rows(self, queries: Int[Array, "#B T"], keys: Int[Array, "#B S"]) -> Int[Array, "#B T S"]:
        """Rows of the relative embedding for queries and keys at these positions; distances are clipped."""
        furthest = self.max_position - 1
        distance = jnp.clip(queries[:, :, None] - keys[:, None, :], -furthest, furthest)
        return jnp.take(jnp.asarray(log_buckets(self.num_buckets, self.max_position), jnp.int32), distance + furthest)

    def logits(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 logits of any block of positions."""
        return self.logits_bias(self.token_embedder.score(hidden))
