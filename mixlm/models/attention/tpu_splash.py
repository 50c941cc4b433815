"""Attention on a TPU by JAX's own splash kernel: no scores in memory, and no work on blocks that nobody sees.

The kernel knows who sees whom from a number for each query, the last key that it may see, and from segments; it is
given those of each row, where its own masks are the same for all rows.
"""

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mixlm.models.attention.dot_product import KEPT
from mixlm.models.attention.masks import AttentionMask

LANES = 128
# Ours: the largest that T5X's and the Llamas' lengths fill; larger blocks are fewer, and skip less.
BLOCKS = (512, 256, LANES)
# Padding that is put behind the queries and keys to fill blocks: a segment that no document has.
FILLING = -1


def splash(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    mask: AttentionMask,
    interpret: bool,
) -> Float[Array, "B H T K"]:
    """`softmax(q k') v` within `mask`; padded queries read padding, and their gradient must be zero.

    `interpret` computes on any device what the kernel would, slowly.
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
        # Which blocks are skipped differs from row to row, and the kernel's batch must skip alike.
        found = jax.lax.map(lambda given: row(*given), (q, k, v, mask))
    return found[:, :, :length]


def block_of(length: int) -> int:
    """The largest block whose multiple is the length when it is filled up to whole lanes."""
    whole = -(-length // LANES) * LANES
    return next(size for size in BLOCKS if whole % size == 0)


def filled(x: Array, axis: int, block: int, value: int = 0) -> Array:
    """`x` with `value` behind it along `axis`, up to a multiple of `block`."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % block)
    return jnp.pad(x, padding, constant_values=value)


def running(mask: AttentionMask, block_q: int, block_k: int) -> Bool[Array, "I J"]:
    """Whether any query of block i may see a key of block j: never False where one does; segments are compared as
    ranges. One row's mask; in every row of blocks one runs, so that each query's softmax is over something.
    """
    limits = jnp.max(mask.limits.reshape(-1, block_q), axis=1)
    queries, keys = mask.query_segments.reshape(-1, block_q), mask.key_segments.reshape(-1, block_k)
    starts = block_k * jnp.arange(len(keys))
    seen = starts[None, :] <= limits[:, None]
    seen &= jnp.max(queries, axis=1)[:, None] >= jnp.min(keys, axis=1)[None, :]
    seen &= jnp.min(queries, axis=1)[:, None] <= jnp.max(keys, axis=1)[None, :]
    return seen.at[:, 0].set(seen[:, 0] | ~jnp.any(seen, axis=1))


def to_fetch(runs: Bool[Array, "I J"], axis: int) -> Int[Array, "I J"]:
    """The block along `axis` to have at hand at each step: its own where it runs, else the next that will, or the last
    that did.
    """
    size = runs.shape[axis]
    places = jax.lax.broadcasted_iota(jnp.int32, runs.shape, axis)
    following = jax.lax.cummin(jnp.where(runs, places, size), axis=axis, reverse=True)
    last = jnp.max(jnp.where(runs, places, 0), axis=axis, keepdims=True)
    return jnp.where(following == size, jnp.broadcast_to(last, runs.shape), following)


def up_to(limits: Any, keys: Any) -> Any:
    """The kernel's mask: whether a query whose last key is `limits` may see the key of this index."""
    return keys <= limits


def _row(q: Any, k: Any, v: Any, mask: AttentionMask, block_q: int, block_k: int, interpret: bool) -> Any:
    # Pallas takes a while to import, and only what runs on a TPU needs it.
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
