"""Exact shares of a batch's rows: over any number of steps each objective gets its share, to within one row."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from mixlm.errors import UserError
from mixlm.objectives.corruption import Rate
from mixlm.schedules import Step

MAX_ROWS = 2**16


def apportioned(step: Step, rows: int, shares: Sequence[Rate]) -> Int[Array, " B"]:
    """Objective of each row of a step, ascending: row n of the whole run is the first's if floor((n+1)s) > floor(ns).

    So after any number of rows an objective had its share of them to within one row (to within one more for each
    objective before it): those the first leaves are numbered again and split likewise. Shares are read as float32,
    rounded to 2^-32; rows are numbered by 32 bits that wrap around, which the first split does not notice.
    """
    if rows > MAX_ROWS:
        raise UserError(f"A mixed batch has at most {MAX_ROWS} rows, got {rows}.")
    number = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(rows) + jnp.arange(rows, dtype=jnp.uint32)
    left, rest = jnp.ones(rows, bool), jnp.ones((), jnp.float32)
    which = jnp.full(rows, len(shares), jnp.int32)
    for index, share in enumerate(shares):
        share = jnp.asarray(share, jnp.float32)
        part = jnp.where(rest > 0, share / jnp.where(rest > 0, rest, 1), 1.0)
        fraction = _fixed_point(part)
        before, phase = _product(number, fraction)
        mine = left & ((phase + fraction < fraction) | (part >= 1))
        which = jnp.where(mine, index, which)
        left, rest, number = left & ~mine, rest - share, number - before
    return jnp.sort(which)


def _fixed_point(share: Float[Array, ""]) -> UInt32[Array, ""]:
    """round(share * 2^32) for a share below 1, in halves of 16 bits, each exact in float32."""
    high = jnp.floor(jnp.clip(share, 0.0, 1 - 2.0**-24) * 2**16)
    low = jnp.round((jnp.clip(share, 0.0, 1 - 2.0**-24) * 2**16 - high) * 2**16)
    return high.astype(jnp.uint32) * jnp.uint32(2**16) + low.astype(jnp.uint32)


def _product(
    number: UInt32[Array, " B"], fraction: UInt32[Array, ""]
) -> tuple[UInt32[Array, " B"], UInt32[Array, " B"]]:
    """The high and the low 32 bits of a product of 32-bit numbers: floor(number * fraction / 2^32) and the rest."""
    mask = jnp.uint32(0xFFFF)
    high, low, f_high, f_low = number >> 16, number & mask, fraction >> 16, fraction & mask
    middle = high * f_low + ((low * f_low) >> 16)
    other = low * f_high + (middle & mask)
    return high * f_high + (middle >> 16) + (other >> 16), number * fraction
