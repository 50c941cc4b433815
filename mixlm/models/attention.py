"""What attention reads: who sees whom as a number added to the scores, and the softmax over them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# What T5X adds to a hidden score: in float32 it swallows the score, so that a query that sees nothing attends evenly.
MASKED = -1e10


def mask_bias(mask: Bool[Array, "B T S"]) -> Float[Array, "B 1 T S"]:
    """What is added to the scores: 0 where query t sees key s, else -1e10, in float32."""
    return jnp.where(mask, 0.0, MASKED)[:, None].astype(jnp.float32)


def mix(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    bias: Float[Array, "#B #H T S"],
    *,
    scale: float = 1.0,
    drop: Callable[[Array], Array] = lambda weights: weights,
) -> Float[Array, "B T J"]:
    """What attention reads, `softmax(scale q k' + bias) v` with the heads joined; the softmax is in float32."""
    scores = jnp.einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.float32)
    weights = drop(jax.nn.softmax(scores * scale + bias, axis=-1).astype(v.dtype))
    mixed = jnp.einsum("bhts,bhsk->bthk", weights, v)
    return mixed.reshape(*mixed.shape[:2], -1)
