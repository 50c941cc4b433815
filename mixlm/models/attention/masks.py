"""Who sees whom, as a few numbers for each position: no mask of a row's length squared until one is asked for."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mixlm.example import same_segment


class Reach(NamedTuple):
    """Query t sees the keys 0 ... `limits[t]` of its own segment; segment 0 is padding, which sees nothing."""

    limits: Int[Array, "B T"]
    query_segments: Int[Array, "B T"]
    key_segments: Int[Array, "B S"]

    def mask(self) -> Bool[Array, "B T S"]:
        """Whether query t sees key s."""
        keys = jnp.arange(self.key_segments.shape[1])
        return (keys[None, None, :] <= self.limits[:, :, None]) & same_segment(self.query_segments, self.key_segments)


def within(mask_ar: Int[Array, "B T"], segments: Int[Array, "B T"]) -> Reach:
    """The reach of a row's positions in it, by the rule of `attention_mask`: up to where the next causal step opens."""
    length = mask_ar.shape[1]
    opens = jnp.where(mask_ar > 0, jnp.arange(length)[None], length)
    behind = jnp.concatenate([opens[:, 1:], jnp.full_like(opens[:, :1], length)], axis=1)
    return Reach(jax.lax.cummin(behind, axis=1, reverse=True) - 1, segments, segments)


def across(queries: Int[Array, "B T"], keys: Int[Array, "B S"]) -> Reach:
    """The reach of positions with these segments in another sequence: all of their segment."""
    return Reach(jnp.full(queries.shape, keys.shape[1] - 1, jnp.int32), queries, keys)
