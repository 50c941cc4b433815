"""Attention by JAX's splash kernel for TPUs: no scores in HBM, and blocks without a visible key are skipped.

The kernel's own masks are the same for all rows. It is given each row's limits (the last key of each query) and
segments instead, as its mask function and segment ids.
"""

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mixlm.models.attention.dot_product import KEPT
from mixlm.models.attention.masks import AttentionMask

LANES = 128
# Ours: the largest that T5X's and Llama's lengths fill; larger blocks are fewer, and skip less.
BLOCKS = (512, 256, LANES)
# The segment of padding behind queries and keys that fills up blocks; no document has it.
FILLING = -1


def splash(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    mask: AttentionMask,
    interpret: bool,
) -> Float[Array, "B H T K"]:
    """`softmax(q k') v` within `mask`; padding queries attend to padding, and their incoming gradient must be zero.

    `interpret` runs the kernel on any device, slowly.
    """
    length, keys = q.shape[2], k.shape[2]
    block_q, block_k = block_of(length), block_of(keys)
    q, k, v = filled(q, 2, block_q), filled(k, 2, block_k), filled(v, 2, block_k)
    mask = AttentionMask(
        filled(mask.limits, 1, block_q, k.shape[2] - 1),
        filled(mask.query_segments, 1, block_q, FILLING),
        filled(mask.key_segments, 1, block_k, FILLING),
    )
    row = partial(_row, block_q=block_q, block_k=block_k, interpret=interpret)
    if q.shape[2] == block_q and k.shape[2] == block_k:
        found = jax.vmap(row)(q, k, v, mask)
    else:
        # Rows skip different blocks, and a batched kernel skips the same ones in all rows.
        found = jax.lax.map(lambda given: row(*given), (q, k, v, mask))
    return found[:, :, :length]


def block_of(length: int) -> int:
    """The largest block that divides the length, rounded up to whole lanes."""
    whole = -(-length // LANES) * LANES
    return next(size for size in BLOCKS if whole % size == 0)


def filled(x: Array, axis: int, block: int, value: int = 0) -> Array:
    """`x` with `value` behind it along `axis`, up to a multiple of `block`."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % block)
    return jnp.pad(x, padding, constant_values=value)


def running(mask: AttentionMask, block_q: int, block_k: int) -> Bool[Array, "I J"]:
    """True where a query of block i may attend to a key of block j; segments are compared as ranges, so conservatively.

    One row's mask. At least one block runs for every i, so that no softmax is empty.
    """
    limits = jnp.max(mask.limits.reshape(-1, block_q), axis=1)
    queries, keys = mask.query_segments.reshape(-1, block_q), mask.key_segments.reshape(-1, block_k)
    starts = block_k * jnp.arange(len(keys))
    seen = starts[None, :] <= limits[:, None]
    seen &= jnp.max(queries, axis=1)[:, None] >= jnp.min(keys, axis=1)[None, :]
    seen &= jnp.min(queries, axis=1)[:, None] <= jnp.max(keys, axis=1)[None, :]
    return seen.at[:, 0].set(seen[:, 0] | ~jnp.any(seen, axis=1))


def to_fetch(runs: Bool[Array, "I J"], axis: int) -> Int[Array, "I J"]:
    """The block along `axis` to prefetch at each step: its own if it runs, else the next one that does, or the last."""
    size = runs.shape[axis]
    places = jax.lax.broadcasted_iota(jnp.int32, runs.shape, axis)
    following = jax.lax.cummin(jnp.where(runs, places, size), axis=axis, reverse=True)
    last = jnp.max(jnp.where(runs, places, 0), axis=axis, keepdims=True)
    return jnp.where(following == size, jnp.broadcast_to(last, runs.shape), following)


def up_to(limits: Any, keys: Any) -> Any:
    """The kernel's mask function: True where key `keys` is at most a query's last key, `limits`."""
    return keys <= limits


def _row(q: Any, k: Any, v: Any, mask: AttentionMask, block_q: int, block_k: int, interpret: bool) -> Any:
    # Pallas is slow to import, and only TPU programs need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as masks

    runs, limits = running(mask, block_q, block_k), cast(Any, mask.limits)
    if runs.size == 1:
        info = forward = masks.MaskInfo(None, None, None, None, limits)
    else:
        blocks = runs[None].astype(jnp.int32)
        forward = masks.MaskInfo(to_fetch(runs, 1)[None], None, blocks, None, limits)
        info = masks.MaskInfo(to_fetch(runs, 0)[None], None, blocks, None, limits)
    sizes = kernel.BlockSizes(
        block_q=block_q,
        block_kv=block_k,
        block_q_dkv=block_q,
        block_kv_dkv=block_k,
        block_q_dq=block_q,
        block_kv_dq=block_k,
    )
    attend = kernel.SplashAttentionKernel(
        forward,
        forward,
        info,
        block_sizes=sizes,
        is_mqa=False,
        save_residuals=False,
        mask_value=kernel.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=KEPT,
        mask_function=up_to,
        interpret=interpret,
    )
    return attend(q, k, v, kernel.SegmentIds(mask.query_segments, mask.key_segments))
