"""Softmax attention with a custom gradient, whose products are in the order that is fast on each platform."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from mixlm.models.attention.masks import AttentionMask
from mixlm.parallel.logical_axes import not_cut, platform

# T5X's additive mask: in float32 it absorbs the score, so that a query without keys attends uniformly.
MASKED = -1e10
# The checkpoint_name of attention's residuals, for policies of jax.checkpoint.
KEPT = "attention"

# An array added to the scores, [B or 1, H or 1, T, S] without letters, since a layer has several of different lengths;
# or a compact mask, which becomes dense where it is added.
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

    Residuals are q, k, v, the output o, each query's largest score m and its sum Z of exp(score - m); the exponentials
    are saved too (`keep`) or recomputed. The gradient of the scores is `p (do v' - do . o)` with
    `p = exp(score - m) / Z` (Rabe & Staats 2021; Dao et al. 2022, section 3.1). Addends are added one by one, so that
    those shared by rows or heads are never broadcast in memory.
    """
    return _forward(q, k, v, addends, scale, keep)[0]


def mask_bias(mask: Bool[Array, "B T S"]) -> Float[Array, "B 1 T S"]:
    """A dense mask as an addend in float32: 0 where query t attends to key s, else -1e10."""
    return jnp.where(mask, 0.0, MASKED)[:, None].astype(jnp.float32)


def _scores(q: Array, k: Array, addends: tuple[Addend, ...], scale: float) -> Array:
    scores = jnp.einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.float32) * scale
    for addend in addends:
        scores = scores + (mask_bias(addend.dense()) if isinstance(addend, AttentionMask) else addend)
    return scores


def _forward(q, k, v, addends, scale, keep):
    scores = _scores(q, k, addends, scale)  # [B, H, T, S] float32
    largest = jnp.max(scores, axis=-1, keepdims=True)  # [B, H, T, 1]
    if not keep and platform() == "tpu":
        # On a TPU the maximum, then the exponentials, are fused into a product of their own each: writing float32
        # scores and reading them twice would take longer than a second product.
        q_again, k_again, largest = jax.lax.optimization_barrier((q, k, largest))
        scores = _scores(q_again, k_again, addends, scale)
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("bhts,bhsk->bhtk", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    out = (out / total).astype(v.dtype)  # [B, H, T, K]
    if platform() == "tpu":
        # Without the barrier the float32 quotient is written, and rounded by each of its consumers.
        out = jax.lax.optimization_barrier(out)
    # Not log Z + m, which loses Z where all scores are -1e10.
    out, largest, total = (checkpoint_name(x, KEPT) for x in (out, largest, total))
    return out, (q, k, v, addends, out, largest, total, weights.astype(v.dtype) if keep else None)


def _backward(scale, keep, kept, given):
    q, k, v, addends, out, largest, total, weights = kept
    if weights is None:
        with jax.named_scope("rematted_computation"):
            weights = jnp.exp(_scores(q, k, addends, scale) - largest).astype(v.dtype)
    # [B, H, T, K] is divided here, not [B, H, T, S] below.
    dout = given.astype(jnp.float32) / total
    delta = jnp.sum(dout * out.astype(jnp.float32), axis=-1, keepdims=True)  # [B, H, T, 1]
    dout = dout.astype(v.dtype)
    dweights = jnp.einsum("bhtk,bhsk->bhts", dout, v, preferred_element_type=jnp.float32)  # [B, H, T, S]
    # In the dtype of v, so that nothing of the size of the scores is written in float32.
    dscores = (weights.astype(jnp.float32) * (dweights - delta)).astype(v.dtype)
    dq = (jnp.einsum("bhts,bhsk->bhtk", dscores, k, preferred_element_type=jnp.float32) * scale).astype(q.dtype)
    dk = (_across(dscores, q) * scale).astype(k.dtype)
    dv = _across(weights, dout).astype(v.dtype)
    return dq, dk, dv, tuple(None if isinstance(x, AttentionMask) else _summed(dscores, x) for x in addends)


def _across(weights: Float[Array, "B H T S"], x: Float[Array, "B H T K"]) -> Float[Array, "B H S K"]:
    """`weights' x`, computed as `(x' weights)'`: a CPU then transposes the smaller array."""
    found = jnp.einsum("bhtk,bhts->bhks", x, weights, preferred_element_type=jnp.float32)
    # Without the barrier XLA folds the transposition into the product again.
    return (jax.lax.optimization_barrier(found) if platform() == "cpu" else found).swapaxes(2, 3)


def _summed(dscores: Array, addend: Array) -> Array:
    """The gradient of an addend: that of the scores, summed over its broadcast axes."""
    if addend.shape[0] == 1 and platform() == "cpu" and not_cut():
        # XLA's sums over the first axis of four are forty times slower there than sums of halves.
        while (rows := dscores.shape[0]) > 1:
            halves = dscores[: rows // 2] + dscores[rows // 2 : rows // 2 * 2]
            dscores = jnp.concatenate([halves[:-1], halves[-1:] + dscores[-1:]]) if rows % 2 else halves
    axes = tuple(axis for axis in range(dscores.ndim) if addend.shape[axis] == 1 != dscores.shape[axis])
    return jnp.sum(dscores, axis=axes, keepdims=True, dtype=jnp.float32).astype(addend.dtype)


attend.defvjp(_forward, _backward)
