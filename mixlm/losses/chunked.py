"""Sums over the positions of a batch in chunks, each with its gradient computed in the same pass."""

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

# Ours: logits per device in one chunk, whatever the batch, the length and the vocabulary: 128 MiB on a CPU, where loops
# are slower, and 64 MiB elsewhere, since a TPU then keeps the head's matrix in on-chip memory.
LOGITS, ELSEWHERE = 2**25, 2**24
# Ours: off a CPU a chunk has at least this many tokens: its products with the head's matrix (6 FLOPs per entry and
# token) should take longer than the 12 bytes per entry read and written for the matrix and its gradient, at the 240
# FLOPs per byte of a TPU v5e.
TOKENS = 480
# The sums next to the total.
SUMS = ("count", "cross_entropy", "counted", "right", "scored", "weight_sum")


def sum_chunks(
    sums: Callable[..., Any],
    shards: Shards | None,
    cut: Callable[[Array], Array],
    arrays: tuple[Array, ...],
    factors: Float[Array, "G ..."] | None = None,
) -> Any:
    """(total, rest, picked) of `sums(*arrays)`, summed over the chunks that `cut` makes of each shard.

    The forward pass computes each chunk's gradient while its logits are in memory: the gradient of a sum is known up to
    a factor, which the backward pass multiplies in. Where totals are per row, the gradient is that of
    `sum(factors * total)`, both with an axis of shards.
    """
    each, (hidden, *columns) = map_parts(shards), [map_parts(shards)(cut, in_parts(shards, x)) for x in arrays]
    factors = jnp.ones(hidden.shape[0]) if factors is None else factors
    # hidden: [shards, chunks, rows, positions, D]; columns: the same without D.
    with nullcontext() if shards is None else shards.inside():
        function, held = jax.closure_convert(sums, *(x[0, 0] for x in (hidden, *columns)))

    @jax.custom_vjp
    def run(held, factors, hidden, columns):
        def added(factors, *chunks):
            def body(carry, chunk):
                total, rest, picked = function(*chunk, *held)
                return jax.tree.map(jnp.add, carry, (total, rest)), picked

            carry, picked = jax.lax.scan(body, zero_sums(factors), chunks)
            return *carry, picked

        return each(added, factors, hidden, *columns)

    def forward(held, factors, hidden, columns):
        def added(factors, *chunks):
            def body(carry, chunk):
                def cost(held, chunk_hidden):
                    total, *rest = function(chunk_hidden, *chunk[1:], *held)
                    return jnp.sum(factors * total), (total, *rest)

                _, pull, (total, rest, picked) = jax.vjp(cost, held, chunk[0], has_aux=True)
                held_gradient, hidden_gradient = pull(jnp.ones(()))
                return jax.tree.map(jnp.add, carry, ((total, rest), held_gradient)), (hidden_gradient, picked)

            start = (zero_sums(factors), jax.tree.map(jnp.zeros_like, held))
            (carry, held_gradient), (hidden_gradient, picked) = jax.lax.scan(body, start, chunks)
            return (*carry, picked), held_gradient, hidden_gradient

        found, held_gradient, hidden_gradient = each(added, factors, hidden, *columns)
        # Summed over shards before the factor is multiplied in, so that there is one copy.
        return found, (factors, jax.tree.map(partial(jnp.sum, axis=0), held_gradient), hidden_gradient)

    def backward(kept, cotangents):
        factors, *gradients = kept
        scale = _shared(cotangents[0], factors)
        held_gradient, hidden_gradient = jax.tree.map(lambda g: (scale * g).astype(g.dtype), gradients)
        return held_gradient, None, hidden_gradient, None

    run.defvjp(forward, backward)
    return run(held, jax.lax.stop_gradient(factors), hidden, tuple(columns))


def map_parts(shards: Shards | None) -> Callable[..., Any]:
    """Maps a function over the shards; without shards, over the whole as one."""
    if shards is not None:
        return shards.each
    return lambda function, *parts: jax.tree.map(lambda x: x[None], function(*(x[0] for x in parts)))


def in_parts(shards: Shards | None, x: Shaped[Array, "B T ..."]) -> Shaped[Array, "G R P ..."]:
    """`x` as shards, along a new first axis."""
    return x[None] if shards is None else shards.cut(x)


def zero_sums(like: Float[Array, "*B"]) -> tuple[Array, dict[str, Array]]:
    """Zero totals of the shape of `like`, and zeros for all of `SUMS`."""
    zeros = jnp.zeros(like.shape)
    return zeros, dict.fromkeys(SUMS, zeros)


def _shared(given: Float[Array, "*B"], factors: Float[Array, "*B"]) -> Float[Array, ""]:
    """The scalar c with `given = c * factors`; NaN where there is none."""
    square = jnp.sum(factors**2)
    number = jnp.sum(given * factors) / jnp.where(square > 0, square, 1.0)
    off = jnp.max(jnp.abs(given - number * factors)) > 1e-3 * jnp.max(jnp.abs(given))
    return jnp.where(off, jnp.nan, number)


def chunk_count(places: int, tokens: int, vocab_size: int, max_logits: int | None) -> int:
    """Chunks of `places` positions, each of `tokens` tokens, that keep to `max_logits` logits (default: `LOGITS`)."""
    most, least = (LOGITS, 1) if platform() == "cpu" else (ELSEWHERE, math.ceil(TOKENS / tokens))
    most = most if max_logits is None else max_logits
    return math.ceil(places / max(most // (tokens * vocab_size), least))


def in_chunks(x: Shaped[Array, "B T ..."], chunks: int) -> Shaped[Array, "N B P ..."]:
    """[B, T, ...] -> [chunks, B, ceil(T / chunks), ...], zeros at the end."""
    size = math.ceil(x.shape[1] / chunks)
    padding = [(0, 0), (0, chunks * size - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    return jnp.moveaxis(jnp.pad(x, padding).reshape(x.shape[0], chunks, size, *x.shape[2:]), 1, 0)
