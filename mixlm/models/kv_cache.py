"""KV cache, filled left to right."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models.attention.masks import AttentionMask, cached_mask

# Without a letter for their length: a layer reads those of the decoder and of the encoder side by side.
KeysValues = tuple[Float[Array, "B H _ K"], Float[Array, "B H _ K"]]


class Slots(NamedTuple):
    """One layer's keys and values; new tokens go into the last slots before `filled`.

    `encoder` holds the keys and values of an encoder's output, for a layer with cross-attention.
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
    """Keys and values [B, H, S, K] per layer; of each slot its segment (0: empty or padding) and position.

    The first `filled` of the S slots are taken. `encoder_keys`, `encoder_values` and `encoder_segments` are read by an
    encoder-decoder's cross-attention. A cache is immutable: `extend` returns the next one.
    """

    keys: tuple[Any, ...]  # Float[Array, "B H S K"], or its shape or its sharding; so below
    values: tuple[Any, ...]  # Float[Array, "B H S K"]
    segments: Any  # Int[Array, "B S"]
    positions: Any  # Int[Array, "B S"]
    filled: Any  # Int[Array, ""]
    encoder_keys: tuple[Any, ...] = ()  # Float[Array, "B H R K"]
    encoder_values: tuple[Any, ...] = ()  # Float[Array, "B H R K"]
    encoder_segments: Any = None  # Int[Array, "B R"]

    def rows(self, index: Int[Array, " R"]) -> "Cache":
        """The cache of these rows, in this order: beam search's survivors, or one prompt for several samples."""
        return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), self.replace(filled=None)).replace(
            filled=self.filled
        )

    def slots(self) -> list[Slots]:
        """The cache, layer by layer."""
        encoder: list[Any] = [*zip(self.encoder_keys, self.encoder_values)] or [None] * len(self.keys)
        return [Slots(keys, values, self.filled, other) for keys, values, other in zip(self.keys, self.values, encoder)]

    def with_layers(self, written: Sequence[KeysValues]) -> "Cache":
        """The cache with new keys and values for every layer."""
        return self.replace(keys=tuple(keys for keys, _ in written), values=tuple(values for _, values in written))

    def with_encoder(self, written: Sequence[KeysValues], segments: Int[Array, "B R"]) -> "Cache":
        """The cache with every layer's keys and values of an encoder's output."""
        keys, values = tuple(keys for keys, _ in written), tuple(values for _, values in written)
        return self.replace(encoder_keys=keys, encoder_values=values, encoder_segments=segments)


def empty_cache(layers: int, rows: int, heads: int, length: int, head_dim: int, dtype: str) -> Cache:
    """A cache of `length` free slots; raises `UserError` where there is none."""
    if length < 1:
        raise UserError(f"A cache of {length} slots can hold no token.")
    free = jnp.zeros((rows, length), jnp.int32)
    blank = tuple(jnp.zeros((rows, heads, length, head_dim), dtype) for _ in range(layers))
    return Cache(blank, blank, segments=free, positions=free, filled=jnp.zeros((), jnp.int32))


def reserve(cache: Cache, example: Example) -> tuple[Cache, AttentionMask, Int[Array, "B T"]]:
    """Gives the example's tokens the next slots; returns (cache, mask over the slots, positions of the tokens).

    Tokens that are read one chunk after another attend to what they would have attended to in one forward pass, if each
    chunk's first token opens a causal step. A token's position is its slot unless the example says otherwise. Raises
    `UserError` for more tokens than there are slots.
    """
    tokens = example.decoder_input_tokens
    rows, length = tokens.shape
    if length > cache.segments.shape[1]:
        raise UserError(f"{length} tokens do not fit into a cache of {cache.segments.shape[1]} slots.")
    positions = example.decoder_positions
    if positions is None:
        positions = jnp.broadcast_to(cache.filled + jnp.arange(length)[None], (rows, length))

    def put(slots: Int[Array, "B S"], new: Int[Array, "B T"]) -> Int[Array, "B S"]:
        return jax.lax.dynamic_update_slice_in_dim(slots, new.astype(slots.dtype), cache.filled, axis=1)

    segments = put(cache.segments, example.decoder_segments)
    mask = cached_mask(example.decoder_mask_ar, example.decoder_segments, cache.filled, segments)
    cache = cache.replace(segments=segments, positions=put(cache.positions, positions), filled=cache.filled + length)
    return cache, mask, positions


def nan_if_overfull(hidden: Float[Array, "B T D"], cache: Cache) -> Float[Array, "B T D"]:
    """The hidden states, or NaN where the tokens ran out of slots, so that it cannot go unnoticed."""
    return jnp.where(cache.filled > cache.segments.shape[1], jnp.nan, hidden)
