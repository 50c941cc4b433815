"""Sums over the positions of a batch, a block after the other, each block's gradient taken ahead."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from mixlm.losses.per_device import Shards
from mixlm.parallel.logical_axes import platform

# Ours: so many logits exist at once on a device, whatever the batch, the length and the vocabulary: 128 MiB on a CPU,
# which is slower in a loop, and 64 MiB elsewhere, since a TPU then keeps the head's matrix near.
LOGITS, ELSEWHERE = 2**25, 2**24
# Ours: but, where products are faster than memory, those of so many tokens at least: a block's products with the head's
# matrix, 6 operations for each of its numbers and each token, are to take longer than the 12 bytes that are read and
# written of it and of its gradient, at the 240 operations per byte of a TPU v5e.
TOKENS = 480
# What is summed next to the total.
SUMS = ("count", "cross_entropy", "counted", "right", "scored", "mass")


def add_up(
    sums: Callable[..., Any],
    shards: Shards | None,
    cut: Callable[[Array], Array],
    arrays: tuple[Array, ...],
    factors: Float[Array, "G ..."] | None = None,
) -> Any:
    """(total, rest, picked) of `sums(*arrays)`, added up over the blocks that `cut` makes of each part.

    The gradient of a block is taken while it is at hand: a sum's gradient only waits for a factor.

    Where the total is one of each row, they are those of the sum of `factors * total`, both with an axis of parts.
    """
    each, (hidden, *columns) = each_part(shards), [each_part(shards)(cut, in_parts(shards, x)) for x in arrays]
    factors = jnp.ones(hidden.shape[0]) if factors is None else factors
    with nullcontext() if shards is None else shards.inside():
        function, held = jax.closure_convert(sums, *(x[0, 0] for x in (hidden, *columns)))

    @jax.custom_vjp
    def run(held, factors, hidden, columns):
        def added(factors, *blocks):
            def body(carry, block):
                total, rest, picked = function(*block, *held)
                return jax.tree.map(jnp.add, carry, (total, rest)), picked

            carry, picked = jax.lax.scan(body, no_sums(factors), blocks)
            return *carry, picked

        return each(added, factors, hidden, *columns)

    def forward(held, factors, hidden, columns):
        def added(factors, *blocks):
            def body(carry, block):
                def cost(held, block_hidden):
                    total, *rest = function(block_hidden, *block[1:], *held)
                    return jnp.sum(factors * total), (total, *rest)

                _, pull, (total, rest, picked) = jax.vjp(cost, held, block[0], has_aux=True)
                held_gradient, hidden_gradient = pull(jnp.ones(()))
                return jax.tree.map(jnp.add, carry, ((total, rest), held_gradient)), (hidden_gradient, picked)

            start = (no_sums(factors), jax.tree.map(jnp.zeros_like, held))
            (carry, held_gradient), (hidden_gradient, picked) = jax.lax.scan(body, start, blocks)
            return (*carry, picked), held_gradient, hidden_gradient

        found, held_gradient, hidden_gradient = each(added, factors, hidden, *columns)
        # Added up before it is multiplied, so that it is not there twice.
        return found, (factors, jax.tree.map(partial(jnp.sum, axis=0), held_gradient), hidden_gradient)

    def backward(kept, cotangents):
        factors, *gradients = kept
        scale = _shared(cotangents[0], factors)
        held_gradient, hidden_gradient = jax.tree.map(lambda g: (scale * g).astype(g.dtype), gradients)
        return held_gradient, None, hidden_gradient, None

    run.defvjp(forward, backward)
    return run(held, jax.lax.stop_gradient(factors), hidden, tuple(columns))


def each_part(shards: Shards | None) -> Callable[..., Any]:
    """What applies a function to every part; without shards all is one part."""
    if shards is not None:
        return shards.each
    return lambda function, *parts: jax.tree.map(lambda x: x[None], function(*(x[0] for x in parts)))


def in_parts(shards: Shards | None, x: Shaped[Array, "B T ..."]) -> Shaped[Array, "G R P ..."]:
    """`x` as its parts, along a new first axis."""
    return x[None] if shards is None else shards.cut(x)


def no_sums(like: Float[Array, "*B"]) -> tuple[Array, dict[str, Array]]:
    """A total of nothing, of the shape of `like`, and what is summed next to it."""
    zeros = jnp.zeros(like.shape)
    return zeros, dict.fromkeys(SUMS, zeros)


def _shared(given: Float[Array, "*B"], factors: Float[Array, "*B"]) -> Float[Array, ""]:
    """The number that `factors` are multiplied by in `given`; NaN where there is none."""
    square = jnp.sum(factors**2)
    number = jnp.sum(given * factors) / jnp.where(square > 0, square, 1.0)
    off = jnp.max(jnp.abs(given - number * factors)) > 1e-3 * jnp.max(jnp.abs(given))
    return jnp.where(off, jnp.nan, number)


def block_count(places: int, tokens: int, vocab_size: int, at_once: int | None) -> int:
    """How many blocks so many places make, each of so many tokens."""
    most, least = (LOGITS, 1) if platform() == "cpu" else (ELSEWHERE, math.ceil(TOKENS / tokens))
    most = most if at_once is None else at_once
    return math.ceil(places / max(most // (tokens * vocab_size), least))


def in_blocks(x: Shaped[Array, "B T ..."], blocks: int) -> Shaped[Array, "N B P ..."]:
    """[B, T, ...] -> [blocks, B, ceil(T / blocks), ...], zeros at the end."""
    size = math.ceil(x.shape[1] / blocks)
    padding = [(0, 0), (0, blocks * size - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    return jnp.moveaxis(jnp.pad(x, padding).reshape(x.shape[0], blocks, size, *x.shape[2:]), 1, 0)
