"""Noise on rows of tokens, on the device: each function takes one row and one key; `jax.vmap` makes it a batch.

Counts are fixed by the length, so that shapes are static.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mixlm.errors import UserError

SAMPLE_BLOCK = 128  # Ours: near the square root of a vocabulary, which keeps both running sums short.


def span_counts(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """How many tokens of a row are noise, and in how many spans: T5's rounding (half to even), at least one of each.

    We round in float64 as T5's Python does; its TensorFlow code, in float32, differs by one token at some exact halves.
    """
    noise = min(max(round(length * noise_density), 1), length - 1)
    spans = max(round(noise / mean_span_length), 1)
    if length < 2 or spans > min(noise, length - noise):
        raise UserError(
            f"A row of {length} tokens cannot hold {spans} noise spans at noise density {noise_density} and mean span "
            f"length {mean_span_length}; use longer rows or other rates."
        )
    return noise, spans


def random_segmentation(key: Key[Array, ""], items: int, segments: int) -> Int[Array, " N"]:
    """Lengths of `segments` non-empty pieces of `items`, uniform over all ways to cut (T5's random segmentation)."""
    cuts = jnp.sort(jax.random.choice(key, items - 1, (segments - 1,), replace=False)) + 1
    return jnp.diff(cuts, prepend=0, append=items)


def span_mask(key: Key[Array, ""], length: int, noise: int, spans: int) -> Bool[Array, " L"]:
    """Which tokens are noise: clean and noisy pieces take turns, a clean one first, a noisy one last (as in T5)."""
    clean_key, noise_key = jax.random.split(key)
    clean_lengths = random_segmentation(clean_key, length - noise, spans)
    noise_lengths = random_segmentation(noise_key, noise, spans)
    ends = jnp.cumsum(jnp.stack([clean_lengths, noise_lengths], axis=1).reshape(-1))
    return jnp.searchsorted(ends, jnp.arange(length), side="right") % 2 == 1


def fold_spans(
    tokens: Int[Array, " L"], mask: Bool[Array, " L"], length: int, first_sentinel: int, eos: int
) -> Int[Array, " S"]:
    """Replaces every masked span by its own sentinel, in descending order, and appends EOS: `length` tokens in all.

    `length` must be the tokens kept + spans + 1; nothing is padded.
    """
    opens = mask & ~jnp.concatenate([jnp.zeros(1, bool), mask[:-1]])
    sentinels = first_sentinel + 1 - jnp.cumsum(opens)
    written = jnp.cumsum(~mask | opens)
    source = jnp.searchsorted(written, jnp.arange(1, length), side="left")
    folded = jnp.where(opens, sentinels, tokens)[source]
    return jnp.append(folded, eos).astype(tokens.dtype)


def choose(key: Key[Array, ""], candidates: Bool[Array, " S"], count: int) -> Int[Array, " N"]:
    """Exactly `count` distinct positions, uniform among the candidates, ascending."""
    scores = jnp.where(candidates, jax.random.uniform(key, candidates.shape), -1.0)
    return jnp.sort(jax.lax.top_k(scores, count)[1])


def sample(logits: Float[Array, "*n V"], noise: Float[Array, "*n"], temperature: float = 1.0) -> Int[Array, "*n"]:
    """Draws from softmax(logits / temperature) by inverting the cumulative distribution at `noise` in [0, 1).

    One uniform number a position instead of one an entry of the vocabulary. The inversion goes by blocks of entries,
    then within one block: a running sum over the whole vocabulary would be most of the work.
    """
    scaled = logits.astype(jnp.float32) / temperature
    weights = jnp.exp(scaled - jnp.max(scaled, axis=-1, keepdims=True))
    size = min(SAMPLE_BLOCK, weights.shape[-1])
    blocks = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, -weights.shape[-1] % size)])
    blocks = blocks.reshape(*weights.shape[:-1], -1, size)
    sums = jnp.cumsum(jnp.sum(blocks, axis=-1), axis=-1)
    block, left = _invert(sums, noise * sums[..., -1])
    entries = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    entry, _ = _invert(jnp.cumsum(entries, axis=-1), left)
    return block * size + entry


def _invert(
    cumulative: Float[Array, "*n N"], threshold: Float[Array, "*n"]
) -> tuple[Int[Array, "*n"], Float[Array, "*n"]]:
    """The first place whose running sum exceeds the threshold, and how much of the threshold is left there.

    Rounding may put the threshold at the end of all: then it is the last place that added anything.
    """
    place = jnp.sum(cumulative <= threshold[..., None], axis=-1, dtype=jnp.int32)
    last = jnp.argmax(cumulative, axis=-1).astype(jnp.int32)
    place = jnp.minimum(place, last)
    before = jnp.take_along_axis(cumulative, jnp.maximum(place - 1, 0)[..., None], axis=-1)[..., 0]
    return place, threshold - jnp.where(place > 0, before, 0.0)


def shift_right(tokens: Int[Array, " T"], start: int) -> Int[Array, " T"]:
    """The decoder's input for these targets: `start`, then all of them but the last."""
    return jnp.concatenate([jnp.full(1, start, tokens.dtype), tokens[:-1]])
