"""Layers that networks share: RMS norm, attention's projections, gated MLP, embedding; names and numerics as in T5X."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mixlm.errors import UserError, nearest
from mixlm.models.attention.dispatch import View, attention_matmul
from mixlm.models.matmul import fuse_cotangents, matmul
from mixlm.parallel.logical_axes import in_force, note

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "gelu": nn.gelu,  # the tanh approximation, as in T5 1.1
    "silu": nn.silu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "linear": lambda x: x,
}
DTYPES = ("float32", "bfloat16")
MOST = 2**31 - 1  # an index is an int32
MOST_LAYERS = 1000  # DeepNet's (Wang et al. 2022), the deepest; each layer takes a while to trace

Initializer = Callable[..., Array]
Product = Callable[[Float[Array, "*any D"], Float[Array, "D F"]], Float[Array, "*any F"]]
fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
fan_in_truncated = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
unit_normal = nn.initializers.normal(stddev=1.0)


def truncated(std: float) -> Initializer:
    """Normal numbers of deviation `std` before what lies beyond two deviations is redrawn."""
    return nn.initializers.truncated_normal(stddev=std, lower=-2.0, upper=2.0)


@dataclass(frozen=True)
class LayerSizes:
    """Sizes that all layers of a stack share; raises `UserError` for invalid ones."""

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
    """Raises `UserError` for the first of `sizes` that is not a positive integer, or is more than a network has."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"{name} = {size!r} must be a whole number above zero.")
        most = MOST_LAYERS if name.endswith("_layers") else MOST
        if size > most:
            raise UserError(f"{name} = {size} is more than {most}.")


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


def constrain(x: Float[Array, "*any"], *names: str | None) -> Float[Array, "*any"]:
    """Constrains an activation's sharding by logical axes; None is an axis that is not sharded.

    Without a layout in force (`parallel.logical_axes`), Flax's axis rules and mesh apply, if there are any.
    """
    note(names)
    layout = in_force()
    return nn.with_logical_constraint(x, names) if layout is None else layout.pinned(x, names)


def gathered(param: Float[Array, "*any"], *names: str | None) -> Float[Array, "*any"]:
    """A parameter gathered over the devices that shard the batch, for a product with activations."""
    layout = in_force()
    return param if layout is None else layout.gathered(param, names)


def add_bias(module: nn.Module, x: Float[Array, "*any F"], axis: str) -> Float[Array, "*any F"]:
    """Adds the float32 parameter "bias" of `module` to the last axis, in `x`'s own type."""
    init = nn.with_logical_partitioning(nn.initializers.zeros, (axis,))
    bias = jnp.asarray(module.param("bias", init, (x.shape[-1],), jnp.float32))
    return x + jnp.broadcast_to(gathered(bias.astype(x.dtype), axis), x.shape)


class Bias(nn.Module):
    """Adds a trainable bias to each feature."""

    axis: str

    @nn.compact
    def __call__(self, x: Float[Array, "*any F"]) -> Float[Array, "*any F"]:
        """Adds to the last axis of `x`."""
        return add_bias(self, x, self.axis)


class Dense(nn.Module):
    """A linear map, `x @ kernel` and `+ bias` where that is asked: float32 parameters, computed in `dtype`."""

    features: int
    axes: tuple[str, str]
    kernel_init: Initializer = fan_in_truncated
    dtype: str = "float32"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*any D"], times: Product = matmul) -> Float[Array, "*any F"]:
        """Maps the last axis to `features` by `times(x, kernel)`."""
        init = nn.with_logical_partitioning(self.kernel_init, self.axes)
        kernel = jnp.asarray(self.param("kernel", init, (x.shape[-1], self.features), jnp.float32))
        y = times(x.astype(self.dtype), gathered(kernel.astype(self.dtype), *self.axes))
        return add_bias(self, y, self.axes[1]) if self.use_bias else y


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
        return y.astype(self.dtype) * jnp.broadcast_to(gathered(scale.astype(self.dtype), "embed"), y.shape)


class Embed(nn.Module):
    """Token embeddings, which also score hidden states as a tied head."""

    vocab_size: int
    emb_dim: int
    dtype: str = "float32"
    embedding_init: Initializer = unit_normal

    def setup(self) -> None:
        """Holds one table, a row for each token."""
        init = nn.with_logical_partitioning(self.embedding_init, ("vocab", "embed"))
        table = self.param("embedding", init, (self.vocab_size, self.emb_dim), jnp.float32)
        self.embedding = jnp.asarray(table)

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Looks up `tokens`; an id outside of the vocabulary becomes NaN, so that it is noticed."""
        table = gathered(self.embedding, "vocab", "embed")
        return constrain(jnp.take(table, tokens, axis=0).astype(self.dtype), "batch", "length", "embed")

    def score(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 scores of every token, `hidden @ embedding.T`."""
        table = gathered(self.embedding, "vocab", "embed")
        return matmul(hidden.astype(jnp.float32), table.T)

    def attend(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 logits of T5 1.0's tied head, `hidden @ embedding.T / sqrt(D)`."""
        return self.score(hidden) / math.sqrt(self.emb_dim)


class Dropout(nn.Module):
    """Dropout whose mask is shared along `shared` axes; active where a "dropout" rng is given."""

    rate: float
    shared: tuple[int, ...] = (-2,)  # T5 drops a feature for the whole length

    @property
    def active(self) -> bool:
        """True where a rate above zero and a "dropout" rng are given."""
        return self.rate > 0.0 and self.has_rng("dropout")

    @nn.compact
    def __call__(self, x: Float[Array, "*any"]) -> Float[Array, "*any"]:
        """Drops at `rate` and rescales, so that the mean stays."""
        if not self.active:
            return x
        return nn.Dropout(self.rate, broadcast_dims=self.shared, deterministic=False)(x)


class GatedMLP(nn.Module):
    """T5's feed-forward block, `wo(product over i of act_i(wi_i(x)))`; one activation is T5 1.0, two are T5 1.1."""

    sizes: LayerSizes
    wi_init: Initializer = fan_in_truncated
    wo_init: Initializer = fan_in_truncated

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Applies to every position."""
        sizes = self.sizes
        branches = []
        for index in range(len(sizes.mlp_activations)):
            dense_name = "wi" if len(sizes.mlp_activations) == 1 else f"wi_{index}"
            wi = Dense(sizes.mlp_dim, ("embed", "mlp"), self.wi_init, sizes.dtype, name=dense_name)
            branches.append(wi(x))
        activated = (
            ACTIVATIONS[name](branch) for name, branch in zip(sizes.mlp_activations, fuse_cotangents(*branches))
        )
        y = Dropout(sizes.dropout_rate)(reduce(operator.mul, activated))
        y = constrain(y, "batch", "length", "mlp")
        return Dense(sizes.emb_dim, ("mlp", "embed"), self.wo_init, sizes.dtype, name="wo")(y)


def split_heads(y: Float[Array, "B T J"], sizes: LayerSizes, length: str | None = "length") -> Float[Array, "B H T K"]:
    """[B, T, J] -> [B, H, T, K], the order of batched products.

    Where a mesh shards the length, queries stay sharded; keys and values, which every query reads, are gathered (None).
    """
    y = y.reshape(*y.shape[:2], sizes.num_heads, sizes.head_dim).swapaxes(1, 2)
    return constrain(y, "batch", "heads", length, "kv")


class Attention(nn.Module):
    """T5's multi-head attention, `softmax(q k' + bias) v`: scores unscaled, the softmax in float32."""

    sizes: LayerSizes

    def setup(self) -> None:
        """Names the projections as T5X does."""
        sizes, joined = self.sizes, self.sizes.num_heads * self.sizes.head_dim
        # Scores are never scaled: 1/sqrt(head_dim) is folded into the query's initialiser.
        query_init = nn.initializers.variance_scaling(1.0 / sizes.head_dim, "fan_in", "normal")
        self.query = Dense(joined, ("embed", "joined_kv"), query_init, sizes.dtype)
        self.key = Dense(joined, ("embed", "joined_kv"), fan_in_normal, sizes.dtype)
        self.value = Dense(joined, ("embed", "joined_kv"), fan_in_normal, sizes.dtype)
        self.out = Dense(sizes.emb_dim, ("joined_kv", "embed"), fan_in_normal, sizes.dtype)
        self.dropout = Dropout(sizes.dropout_rate)  # one mask for all queries of a head

    def keys_values(self, x: Float[Array, "B S D"]) -> tuple[Float[Array, "B H S K"], Float[Array, "B H S K"]]:
        """Keys and values for `attend`, or for a cache."""
        return split_heads(self.key(x), self.sizes, None), split_heads(self.value(x), self.sizes, None)

    def attend(
        self,
        queries: Float[Array, "B T D"],
        memory: tuple[Float[Array, "B H S K"], Float[Array, "B H S K"]],
        view: View,
    ) -> Float[Array, "B T D"]:
        """Attends to keys and values; a plain `view` holds the mask (0 or -1e10) and the relative bias."""
        drop = self.dropout if self.dropout.active else None

        def times(x: Array, kernel: Array) -> Array:
            return attention_matmul(split_heads(x, self.sizes), *memory, view, kernel, drop=drop)

        return self.out(self.query(queries), times)

    def __call__(
        self, queries: Float[Array, "B T D"], keys: Float[Array, "B S D"], view: View
    ) -> Float[Array, "B T D"]:
        """Attends from `queries` to `keys`."""
        return self.attend(queries, self.keys_values(keys), view)
