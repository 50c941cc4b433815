"""Every random key and stream in one place: noise is a function of (seed, step, row)."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key


def row_keys(seed: Int[Array, ""] | int, step: Int[Array, ""] | int, rows: int) -> Key[Array, " B"]:
    """One key per row of the global batch, a function of (seed, step, row): devices and resumes cannot change it."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(rows))


def subkeys(keys: Key[Array, " B"], count: int) -> tuple[Key[Array, " B"], ...]:
    """Splits every row's key into `count` independent ones."""
    return tuple(jax.vmap(lambda key: jax.random.split(key, count))(keys).T)


# Streams of a row's key besides those that objectives split off it, which are numbered from 0.
RANK_STREAM, START_STREAM = 0x52414E4B, 0x53544152


def ranks(keys: Key[Array, " B"]) -> Int[Array, " B"]:
    """The order of a batch's rows by a number drawn from each row's own key: a uniform permutation, new every step."""
    drawn = jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, RANK_STREAM)))(keys)
    return jnp.argsort(jnp.argsort(drawn))
