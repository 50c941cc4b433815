"""Every random key and stream: noise is a function of (seed, step, row), so devices and resumes cannot change it.

A key is derived by folding numbers into the seed's key; draws are made at the leaves of this tree only:

    key(seed)
      fold step                         step_key
        fold row, 0 .. rows - 1         row_keys: all that corrupts a row, by its index in the global batch
          fold 0, 1, ...                fold_rows; also what subkeys and jax.random.split derive
          fold RANK_STREAM              random_row_order
          fold START_STREAM             stratified_levels, from one row's key
        fold rows                       dropout_key
          fold microbatch, network      microbatch_key, network_key; Linen folds in each layer's path
      fold network                      init_key; Linen folds in each parameter's path, a hash

Evaluation and decoding are processes of their own, and use the same derivations: decoding folds the place of a new
token, the sample or the diffusion step into a row key of step 0; scoring folds a sentence and its noise sample into the
key of its own seed (`place_keys`). The order of the data is drawn on the host by `data.loader`, with Philox streams.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Index = Int[Array, ""] | int
# Streams of a row's key beside those that are numbered from 0: "RANK" and "STAR" in ASCII.
RANK_STREAM, START_STREAM = 0x52414E4B, 0x53544152
GOLDEN_STEP = 2654435769  # 2^32 times the golden ratio's fraction: its multiples fill a circle evenly.


def step_key(seed: Index, step: Index) -> Key[Array, ""]:
    """The key of a training step, a function of (seed, step)."""
    return jax.random.fold_in(jax.random.key(seed), step)


def row_keys(seed: Index, step: Index, rows: int) -> Key[Array, " B"]:
    """A key for each row of the global batch, a function of (seed, step, row)."""
    return jax.vmap(partial(jax.random.fold_in, step_key(seed, step)))(jnp.arange(rows))


def subkeys(keys: Key[Array, " B"], count: int) -> tuple[Key[Array, " B"], ...]:
    """Splits every row's key into `count` keys: number i is `fold_rows(keys, i)`."""
    return tuple(jax.vmap(lambda key: jax.random.split(key, count))(keys).T)


def fold_rows(keys: Key[Array, " B"], number: Index) -> Key[Array, " B"]:
    """Stream `number` of every row's key."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def sample_keys(keys: Key[Array, " B"], samples: int) -> Key[Array, " N"]:
    """Streams 0 to `samples - 1` of every row's key, [B * samples], those of a row side by side."""
    return jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(samples)))(keys).reshape(-1)


def dropout_key(seed: Index, step: Index, rows: int) -> Key[Array, ""]:
    """The key of a step's dropout, one past its `rows` row keys: a function of (seed, step, rows)."""
    return jax.random.fold_in(step_key(seed, step), rows)


def microbatch_key(dropout: Key[Array, ""], index: Index) -> Key[Array, ""]:
    """The dropout key of a microbatch."""
    return jax.random.fold_in(dropout, index)


def network_key(dropout: Key[Array, ""], index: int) -> Key[Array, ""]:
    """The dropout key of a network, by its index among the names in order."""
    return jax.random.fold_in(dropout, index)


def init_key(seed: Index, index: int) -> Key[Array, ""]:
    """The key that initialises a network, a function of (seed, index among the names in order)."""
    return jax.random.fold_in(jax.random.key(seed), index)


def place_keys(seed: Index, sentence: Index, sample: Index, places: int) -> Key[Array, " N"]:
    """A key for each place of a scored sentence, a function of (seed, sentence, noise sample, place).

    So the noise of a place does not depend on how far its row is padded.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), sentence), sample)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(places))


def random_row_order(keys: Key[Array, " B"]) -> Int[Array, " B"]:
    """Each row's rank by a number drawn from its own key: a uniform permutation, new every step."""
    drawn = jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, RANK_STREAM)))(keys)
    return jnp.argsort(jnp.argsort(drawn))


def stratified_levels(keys: Key[Array, " B"]) -> Float[Array, " B"]:
    """Noise levels `frac(start + rank * 0.618...)`, each uniform over [0, 1), evenly spread over the batch.

    The start is drawn from the key of the row of rank 0 (`random_row_order`). Rows of neighbouring ranks, such as those
    of one objective in a mix, are spread evenly too, however many they are.
    """
    rank = random_row_order(keys)
    start = jax.random.bits(jax.random.fold_in(keys[jnp.argmin(rank)], START_STREAM))
    # In whole numbers that wrap around: a float's fraction would lose its digits to the rank.
    turns = start + rank.astype(jnp.uint32) * jnp.uint32(GOLDEN_STEP)
    return (turns >> 8).astype(jnp.float32) / 2**24
