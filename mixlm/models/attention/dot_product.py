"""Softmax attention with a gradient of its own, whose products are in the order that is fast on every platform."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from mixlm.models.attention.masks import AttentionMask
from mixlm.parallel.logical_axes import not_cut, platform

# What T5X adds to a hidden score: in float32 it swallows the score, so that a query that sees nothing attends evenly.
MASKED = -1e10
# What attention keeps for the gradient, as policies of jax.checkpoint know it.
KEPT = "attention"

# What is added to the scores, [B or 1, H or 1, T, S] without letters, since a layer has several of other lengths; or
# who sees whom, of which the mask is made where it is added.
Addend = Float[Array, "_ _ _ _"] | AttentionMask


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attend(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    addends: tuple[Addend, ...],
    scale: float = 1.0,
    keep: bool = False,
) -> Float[Array, "B H T K"]:
    """`softmax(scale q k' + sum of addends) v`, the softmax in float32.

    For the gradient q, k, v, the result o and of each query the largest score m and the sum Z of exp(score - m) are at
    hand, and either the exponentials (`keep`), or these are made again. The gradient of the scores is
    `p (do v' - do . o)` with `p = exp(score - m) / Z` (Rabe & Staats 2021; Dao et al. 2022, section 3.1). Addends are
    added one by one, so that what is the same for all rows or heads is never made for each of them.
    """
    return _forward(q, k, v, addends, scale, keep)[0]


def mask_bias(mask: Bool[Array, "B T S"]) -> Float[Array, "B 1 T S"]:
    """What is added to the scores: 0 where query t sees key s, else -1e10, in float32."""
    return jnp.where(mask, 0.0, MASKED)[:, None].astype(jnp.float32)


def _scores(q: Array, k: Array, addends: tuple[Addend, ...], scale: float) -> Array:
    scores = jnp.einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.float32) * scale
    for addend in addends:
        scores = scores + (mask_bias(addend.dense()) if isinstance(addend, AttentionMask) else addend)
    return scores


def _forward(q, k, v, addends, scale, keep):
    scores = _scores(q, k, addends, scale)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    if not keep and platform() == "tpu":
        # A TPU takes the maximum, and then the exponentials, as the scores leave the product: writing them in float32
        # and reading them twice would take longer than the product.
        q_again, k_again, largest = jax.lax.optimization_barrier((q, k, largest))
        scores = _scores(q_again, k_again, addends, scale)
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    mixed = jnp.einsum("bhts,bhsk->bhtk", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    mixed = (mixed / total).astype(v.dtype)
    if platform() == "tpu":
        # Else the float32 quotient would be written, for each of its readers to round.
        mixed = jax.lax.optimization_barrier(mixed)
    # Not log Z + m, which loses Z where all scores are -1e10. The names are for policies of jax.checkpoint.
    mixed, largest, total = (checkpoint_name(x, KEPT) for x in (mixed, largest, total))
    return mixed, (q, k, v, addends, mixed, largest, total, weights.astype(v.dtype) if keep else None)


def _backward(scale, keep, kept, given):
    q, k, v, addends, mixed, largest, total, weights = kept
    if weights is None:
        with jax.named_scope("rematted_computation"):
            weights = jnp.exp(_scores(q, k, addends, scale) - largest).astype(v.dtype)
    # Divided before what is as large as the scores is made.
    share = given.astype(jnp.float32) / total
    along = jnp.sum(share * mixed.astype(jnp.float32), axis=-1, keepdims=True)
    share = share.astype(v.dtype)
    through = jnp.einsum("bhtk,bhsk->bhts", share, v, preferred_element_type=jnp.float32)
    # In the type of v, so that nothing of the size of the scores is written in float32.
    slope = (weights.astype(jnp.float32) * (through - along)).astype(v.dtype)
    of_q = (jnp.einsum("bhts,bhsk->bhtk", slope, k, preferred_element_type=jnp.float32) * scale).astype(q.dtype)
    of_k = (_across(slope, q) * scale).astype(k.dtype)
    of_v = _across(weights, share).astype(v.dtype)
    return of_q, of_k, of_v, tuple(None if isinstance(x, AttentionMask) else _summed(slope, x) for x in addends)


def _across(weights: Float[Array, "B H T S"], x: Float[Array, "B H T K"]) -> Float[Array, "B H S K"]:
    """`weights' x`, made as `(x' weights)'`: a CPU then transposes what is small."""
    found = jnp.einsum("bhtk,bhts->bhks", x, weights, preferred_element_type=jnp.float32)
    # XLA would put the transposition back into the product.
    return (jax.lax.optimization_barrier(found) if platform() == "cpu" else found).swapaxes(2, 3)


def _summed(slope: Array, addend: Array) -> Array:
    """The gradient of an addend: that of the scores, summed along the axes that it is the same on."""
    if addend.shape[0] == 1 and platform() == "cpu" and not_cut():
        # XLA's sums over the first axis of four are forty times slower there than sums of halves.
        while (rows := slope.shape[0]) > 1:
            halves = slope[: rows // 2] + slope[rows // 2 : rows // 2 * 2]
            slope = jnp.concatenate([halves[:-1], halves[-1:] + slope[-1:]]) if rows % 2 else halves
    axes = tuple(axis for axis in range(slope.ndim) if addend.shape[axis] == 1 != slope.shape[axis])
    return jnp.sum(slope, axis=axes, keepdims=True, dtype=jnp.float32).astype(addend.dtype)


attend.defvjp(_forward, _backward)
