"""The parts of a T5 network: RMS norm, attention, gated MLP, relative bias, embedding; names and numbers as in T5X."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mixlm.errors import UserError, nearest

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "gelu": nn.gelu,  # the tanh approximation, as in T5 1.1
    "silu": nn.silu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "linear": lambda x: x,
}
DTYPES = ("float32", "bfloat16")

# What T5X adds to a hidden score: in float32 it swallows the score, so that a query that sees nothing attends evenly.
MASKED = -1e10

Initializer = Callable[..., Array]
fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
fan_in_truncated = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


@dataclass(frozen=True)
class LayerSizes:
    """The plain numbers that every layer of one stack shares; raises `UserError` for a value that no layer can have."""

    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_positive(emb_dim=self.emb_dim, num_heads=self.num_heads, head_dim=self.head_dim, mlp_dim=self.mlp_dim)
        check_activations(self.mlp_activations)
        check_dtype(self.dtype)
        if not 0.0 <= self.dropout_rate < 1.0:
            raise UserError(f"dropout_rate = {self.dropout_rate} is outside of [0, 1).")


def check_positive(**sizes: object) -> None:
    """Raises `UserError` for the first of `sizes` that is no whole number above zero."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"{name} = {size!r} must be a whole number above zero.")


def check_activations(names: object) -> None:
    """Raises `UserError` unless `names` is a tuple of known activations, such as ("gelu", "linear")."""
    if not isinstance(names, tuple) or not names:
        raise UserError(f"mlp_activations = {names!r} must be a tuple of names, such as ('gelu', 'linear').")
    for name in names:
        if name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UserError(f"{name!r} is not an activation ({known}).{nearest(str(name), ACTIVATIONS)}")


def check_dtype(dtype: object) -> None:
    """Raises `UserError` unless `dtype` is "float32" or "bfloat16"."""
    if dtype not in DTYPES:
        raise UserError(f"dtype = {dtype!r} must be 'float32' or 'bfloat16'.{nearest(str(dtype), DTYPES)}")


def check_buckets(num_buckets: int, max_distance: int, *, bidirectional: bool) -> None:
    """Raises `UserError` where the relative buckets leave no room for both exact and logarithmic distances."""
    check_positive(num_buckets=num_buckets, max_distance=max_distance)
    step = 4 if bidirectional else 2
    if num_buckets % step:
        raise UserError(f"num_buckets = {num_buckets} must be a multiple of {step}.")
    if max_distance <= num_buckets // step:
        raise UserError(f"max_distance = {max_distance} must be above {num_buckets // step}, the exact buckets' reach.")


def constrain(x: Float[Array, "*any"], *axes: str) -> Float[Array, "*any"]:
    """Pins `x` to the mesh by its logical axes; does nothing where no axis rules or no mesh are in force."""
    return nn.with_logical_constraint(x, axes)


class Dense(nn.Module):
    """A linear map without bias, `x @ kernel`: the kernel is float32, the product is taken in `dtype`."""

    features: int
    axes: tuple[str, str]
    kernel_init: Initializer = fan_in_truncated
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*any D"]) -> Float[Array, "*any F"]:
        """Maps the last axis to `features`."""
        init = nn.with_logical_partitioning(self.kernel_init, self.axes)
        kernel = jnp.asarray(self.param("kernel", init, (x.shape[-1], self.features), jnp.float32))
        return jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))


class RMSNorm(nn.Module):
    """T5's layer norm, `x / sqrt(mean(x^2) + eps) * scale`, computed in float32 whatever `dtype` comes out."""

    dtype: str = "float32"
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*any D"]) -> Float[Array, "*any D"]:
        """Normalises the last axis."""
        init = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        scale = jnp.asarray(self.param("scale", init, (x.shape[-1],), jnp.float32))
        x = x.astype(jnp.float32)
        y = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return y.astype(self.dtype) * jnp.broadcast_to(scale.astype(self.dtype), y.shape)


class Embed(nn.Module):
    """Token embeddings, which can also score hidden states (a tied head)."""

    vocab_size: int
    emb_dim: int
    dtype: str = "float32"

    def setup(self) -> None:
        """Holds one table of unit-variance rows."""
        init = nn.with_logical_partitioning(nn.initializers.normal(stddev=1.0), ("vocab", "embed"))
        table = self.param("embedding", init, (self.vocab_size, self.emb_dim), jnp.float32)
        self.embedding = jnp.asarray(table)

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Looks up `tokens`; an id outside of the vocabulary becomes NaN, so that it cannot go unnoticed."""
        return constrain(jnp.take(self.embedding, tokens, axis=0).astype(self.dtype), "batch", "length", "embed")

    def attend(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 logits of the tied head, `hidden @ embedding.T / sqrt(D)` (T5 1.0)."""
        logits = jnp.einsum("...d,vd->...v", hidden.astype(jnp.float32), self.embedding)
        return logits / math.sqrt(self.emb_dim)


class Dropout(nn.Module):
    """Dropout that shares its mask along `shared` axes and is active exactly where a "dropout" rng was given."""

    rate: float
    shared: tuple[int, ...] = (-2,)  # T5 drops a feature for the whole length

    @nn.compact
    def __call__(self, x: Float[Array, "*any"]) -> Float[Array, "*any"]:
        """Drops at `rate` and rescales, so that the mean stays."""
        if self.rate == 0.0 or not self.has_rng("dropout"):
            return x
        return nn.Dropout(self.rate, broadcast_dims=self.shared, deterministic=False)(x)


class GatedMLP(nn.Module):
    """T5's feed-forward block, `wo(product over i of act_i(wi_i(x)))`; one activation is T5 1.0, two are T5 1.1."""

    sizes: LayerSizes

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Maps every position on its own."""
        sizes = self.sizes
        branches = []
        for index, name in enumerate(sizes.mlp_activations):
            dense_name = "wi" if len(sizes.mlp_activations) == 1 else f"wi_{index}"
            wi = Dense(sizes.mlp_dim, ("embed", "mlp"), dtype=sizes.dtype, name=dense_name)
            branches.append(ACTIVATIONS[name](wi(x)))
        y = Dropout(sizes.dropout_rate)(reduce(operator.mul, branches))
        y = constrain(y, "batch", "length", "mlp")
        return Dense(sizes.emb_dim, ("mlp", "embed"), dtype=sizes.dtype, name="wo")(y)


class Attention(nn.Module):
    """T5's multi-head attention, `softmax(q k' + bias) v`: scores unscaled, the softmax in float32."""

    sizes: LayerSizes

    @nn.compact
    def __call__(
        self, queries: Float[Array, "B T D"], keys: Float[Array, "B S D"], bias: Float[Array, "#B #H T S"]
    ) -> Float[Array, "B T D"]:
        """Attends from `queries` to `keys`; `bias` holds the mask (0 or -1e10) and the relative bias."""
        sizes = self.sizes
        # Scores are never scaled: 1/sqrt(head_dim) is folded into the query's initialiser.
        query_init = nn.initializers.variance_scaling(1.0 / sizes.head_dim, "fan_in", "normal")
        q = self.heads("query", query_init, queries)
        k = self.heads("key", fan_in_normal, keys)
        v = self.heads("value", fan_in_normal, keys)
        scores = jnp.einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias, axis=-1).astype(sizes.dtype)
        weights = Dropout(sizes.dropout_rate)(weights)  # one mask for all queries of a head
        mixed = jnp.einsum("bhts,bhsk->bthk", weights, v)
        mixed = mixed.reshape(*queries.shape[:2], sizes.num_heads * sizes.head_dim)
        return Dense(sizes.emb_dim, ("joined_kv", "embed"), fan_in_normal, sizes.dtype, name="out")(mixed)

    def heads(self, name: str, init: Initializer, x: Float[Array, "B T D"]) -> Float[Array, "B H T K"]:
        """Projects `x` and puts the heads in front of the length, where the batched products want them."""
        sizes = self.sizes
        y = Dense(sizes.num_heads * sizes.head_dim, ("embed", "joined_kv"), init, sizes.dtype, name=name)(x)
        y = y.reshape(*x.shape[:2], sizes.num_heads, sizes.head_dim).swapaxes(1, 2)
        return constrain(y, "batch", "heads", "length", "kv")


def mask_bias(mask: Bool[Array, "B T S"]) -> Float[Array, "B 1 T S"]:
    """What is added to the scores: 0 where query t sees key s, else -1e10, in float32."""
    return jnp.where(mask, 0.0, MASKED)[:, None].astype(jnp.float32)


def relative_buckets(max_distance: int, num_buckets: int, *, bidirectional: bool) -> np.ndarray:
    """The buckets of the relative positions (key - query) -max_distance ... max_distance; what is further is the same.

    T5, section 2.1: the first half of a direction's buckets are exact distances, the rest grow as the logarithm up to
    `max_distance`. One-directional buckets put every key behind the query into bucket 0.
    """
    relative = np.arange(-max_distance, max_distance + 1)
    distance = np.abs(relative) if bidirectional else np.maximum(-relative, 0)
    per_side = num_buckets // 2 if bidirectional else num_buckets
    exact = per_side // 2
    # T5X's epsilon keeps log(0) away; the bucket's edges that are whole numbers are met from above.
    ratio = distance.astype(np.float32) / np.float32(exact) + np.finfo(np.float32).eps
    logarithmic = exact + (np.log(ratio) / math.log(max_distance / exact) * (per_side - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(logarithmic, per_side - 1))
    return bucket + per_side * (relative > 0) if bidirectional else bucket


class RelativeBias(nn.Module):
    """T5's relative position bias: one learnt number for each head and bucket of distances, shared by all layers."""

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool

    @nn.compact
    def __call__(self, length: int, positions: Int[Array, "B T"] | None = None) -> Float[Array, "#B H T T"]:
        """The bias of query t and key s: from `positions` for each row, else from the index, once for all rows."""
        uniform = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        init = nn.with_logical_partitioning(uniform, ("heads", "relpos_buckets"))
        table = jnp.asarray(self.param("rel_embedding", init, (self.num_heads, self.num_buckets), jnp.float32))
        buckets = relative_buckets(self.max_distance, self.num_buckets, bidirectional=self.bidirectional)
        by_distance = table[:, buckets]
        if positions is None:
            return self.from_index(by_distance, length)[None]
        relative = positions[:, None, :] - positions[:, :, None]
        index = jnp.clip(relative, -self.max_distance, self.max_distance) + self.max_distance
        return jnp.moveaxis(jnp.take(by_distance, index, axis=1), 0, 1)

    def from_index(self, by_distance: Float[Array, "H R"], length: int) -> Float[Array, "H T T"]:
        """A Toeplitz matrix for each head, by a shear: no gather of T x T indices, and no scatter in its gradient."""
        # Row 0 is offsets 0 ... T-1, one unused, then -(T-1) ... -1; read back in rows one shorter, row t starts at -t.
        offsets = np.concatenate([np.arange(length), [0], np.arange(1 - length, 0)])
        row = by_distance[:, np.clip(offsets, -self.max_distance, self.max_distance) + self.max_distance]
        heads, period = row.shape
        rows = jnp.broadcast_to(row[:, None, :], (heads, length, period)).reshape(heads, length * period)
        return rows[:, : length * (period - 1)].reshape(heads, length, period - 1)[:, :, :length]
