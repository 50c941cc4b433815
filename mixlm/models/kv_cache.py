"""What a decoder has read so far: every layer's keys and values in slots, filled from the left."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mixlm.errors import UserError
from mixlm.example import Example, same_segment

# Without a letter for their length: a layer reads those of the decoder and of the encoder side by side.
KeysValues = tuple[Float[Array, "B H _ K"], Float[Array, "B H _ K"]]


class Slots(NamedTuple):
    """One layer's part of a cache, and where the tokens that are being read go: the last ones before `filled`.

    `encoder` holds the keys and values of an encoder's output, for a layer that attends to it.
    """

    keys: Float[Array, "B H S K"]
    values: Float[Array, "B H S K"]
    filled: Int[Array, ""]
    encoder: KeysValues | None = None

    def write(self, keys: Float[Array, "B H T K"], values: Float[Array, "B H T K"]) -> KeysValues:
        """All keys and values, those of the new tokens in their slots."""
        start = self.filled - keys.shape[2]
        return (
            jax.lax.dynamic_update_slice_in_dim(self.keys, keys.astype(self.keys.dtype), start, axis=2),
            jax.lax.dynamic_update_slice_in_dim(self.values, values.astype(self.values.dtype), start, axis=2),
        )


class Cache(struct.PyTreeNode):
    """Keys and values [B, H, S, K] per layer, and each slot's segment (0: empty or padding), position and causal step.

    The first `filled` of the S slots are taken. `encoder_keys`, `encoder_values` and `encoder_segments` are what an
    encoder-decoder's cross-attention reads. A cache never changes: `extend` returns the next one.
    """

    keys: tuple[Any, ...]  # Float[Array, "B H S K"], or its shape or its sharding; so below
    values: tuple[Any, ...]  # Float[Array, "B H S K"]
    segments: Any  # Int[Array, "B S"]
    positions: Any  # Int[Array, "B S"]
    steps: Any  # Int[Array, "B S"]
    filled: Any  # Int[Array, ""]
    encoder_keys: tuple[Any, ...] = ()  # Float[Array, "B H R K"]
    encoder_values: tuple[Any, ...] = ()  # Float[Array, "B H R K"]
    encoder_segments: Any = None  # Int[Array, "B R"]

    def rows(self, index: Int[Array, " R"]) -> "Cache":
        """The cache of these rows, in this order: what beam search keeps, or one prompt for several samples."""
        return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), self.replace(filled=None)).replace(
            filled=self.filled
        )

    def slots(self) -> list[Slots]:
        """Each layer's part."""
        encoder: list[Any] = [*zip(self.encoder_keys, self.encoder_values)] or [None] * len(self.keys)
        return [Slots(keys, values, self.filled, seen) for keys, values, seen in zip(self.keys, self.values, encoder)]

    def keep(self, written: Sequence[KeysValues]) -> "Cache":
        """The cache with what every layer wrote."""
        return self.replace(keys=tuple(keys for keys, _ in written), values=tuple(values for _, values in written))


def empty_cache(layers: int, rows: int, heads: int, length: int, head_dim: int, dtype: str) -> Cache:
    """A cache of `length` free slots; raises `UserError` where there is none."""
    if length < 1:
        raise UserError(f"A cache of {length} slots can hold no token.")
    free = jnp.zeros((rows, length), jnp.int32)
    blank = tuple(jnp.zeros((rows, heads, length, head_dim), dtype) for _ in range(layers))
    return Cache(blank, blank, segments=free, positions=free, steps=free, filled=jnp.zeros((), jnp.int32))


def read(cache: Cache, example: Example) -> tuple[Cache, Bool[Array, "B T S"], Int[Array, "B T"]]:
    """Gives the example's tokens the next slots; returns who sees which slot, by `attention_mask`'s rule, and where.

    The causal steps count on from those of the slots, so that tokens read one after the other see what they would have
    seen side by side, if the first of them opens a step. A token's position is its slot unless the example says more.
    Raises `UserError` for more tokens than there are slots.
    """
    tokens = example.decoder_input_tokens
    rows, length = tokens.shape
    if length > cache.segments.shape[1]:
        raise UserError(f"{length} tokens do not fit into a cache of {cache.segments.shape[1]} slots.")
    positions = example.decoder_positions
    if positions is None:
        positions = jnp.broadcast_to(cache.filled + jnp.arange(length)[None], (rows, length))
    steps = jnp.max(cache.steps, axis=1, keepdims=True) + jnp.cumsum(example.decoder_mask_ar, axis=1)

    def put(slots: Int[Array, "B S"], new: Int[Array, "B T"]) -> Int[Array, "B S"]:
        return jax.lax.dynamic_update_slice_in_dim(slots, new.astype(slots.dtype), cache.filled, axis=1)

    segments = example.decoder_segments
    cache = cache.replace(
        segments=put(cache.segments, segments),
        positions=put(cache.positions, positions),
        steps=put(cache.steps, steps),
        filled=cache.filled + length,
    )
    sees = (cache.steps[:, None, :] <= steps[:, :, None]) & same_segment(segments, cache.segments)
    return cache, sees, positions


def unless_overfull(hidden: Float[Array, "B T D"], cache: Cache) -> Float[Array, "B T D"]:
    """The hidden states, or NaN where the tokens ran out of slots, so that it cannot go unnoticed."""
    return jnp.where(cache.filled > cache.segments.shape[1], jnp.nan, hidden)
