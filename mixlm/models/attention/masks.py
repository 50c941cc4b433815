"""Compact attention masks: the one place of the mask rule.

Query t attends to key s if both belong to the same segment (0 is padding, which attends to nothing) and
`cumsum(mask_ar)[s] <= cumsum(mask_ar)[t]` (big_vision's rule): all 1 is causal, all 0 bidirectional, 0..0 1..1 prefix.
The running sum never falls, so the keys that a query may attend to end at one index: a mask is O(T) integers, and
[B, T, S] booleans exist only where an implementation of attention asks for them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class AttentionMask(NamedTuple):
    """Query t attends to the keys 0 ... `limits[t]` of its own segment."""

    limits: Int[Array, "B T"]
    query_segments: Int[Array, "B T"]
    key_segments: Int[Array, "B S"]

    def dense(self) -> Bool[Array, "B T S"]:
        """True where query t attends to key s."""
        keys = jnp.arange(self.key_segments.shape[1])
        return (keys[None, None, :] <= self.limits[:, :, None]) & same_segment(self.query_segments, self.key_segments)


def same_segment(queries: Int[Array, "B Q"], keys: Int[Array, "B K"]) -> Bool[Array, "B Q K"]:
    """True where query q and key k belong to the same segment; padding (segment 0) belongs to none."""
    return (queries[:, :, None] == keys[:, None, :]) & (queries[:, :, None] > 0)


def self_mask(mask_ar: Int[Array, "B T"], segments: Int[Array, "B T"]) -> AttentionMask:
    """Self-attention: a query's last key is the one before the next causal step opens."""
    length = mask_ar.shape[1]
    opens = jnp.where(mask_ar > 0, jnp.arange(length)[None], length)
    behind = jnp.concatenate([opens[:, 1:], jnp.full_like(opens[:, :1], length)], axis=1)
    return AttentionMask(jax.lax.cummin(behind, axis=1, reverse=True) - 1, segments, segments)


def cached_mask(
    mask_ar: Int[Array, "B T"], segments: Int[Array, "B T"], start: Int[Array, ""], key_segments: Int[Array, "B S"]
) -> AttentionMask:
    """Self-attention of tokens that go into the slots `start` ... `start + T - 1` of a KV cache.

    Every slot before `start` holds an earlier step, or the same one, so all of these are visible. `key_segments` are
    those of all slots, the new ones included.
    """
    return AttentionMask(self_mask(mask_ar, segments).limits + start, segments, key_segments)


def cross_mask(queries: Int[Array, "B T"], keys: Int[Array, "B S"]) -> AttentionMask:
    """Attention to another sequence: all of the query's segment."""
    return AttentionMask(jnp.full(queries.shape, keys.shape[1] - 1, jnp.int32), queries, keys)
