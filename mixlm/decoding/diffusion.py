"""Diffusion decoding: a target of fixed length is denoised step by step, from masks or from random tokens.

The prompt stands before the target and is never changed; the network reads both in both directions. A shifted network
predicts each token at the position before it, and its prompt begins with BOS; any other predicts it in its place.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from mixlm.decoding.autoregressive import Decoded, Sampler, context_example
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.losses.token_losses import cross_entropy
from mixlm.network import Net
from mixlm.rng import fold_rows, sample_keys
from mixlm.tokens import TokenIds

ROWS_AT_ONCE = 8  # Ours: the logits of more rows than that never exist at once.


@struct.dataclass
class UnmaskPlan:
    """The plan of N steps: each unmasks `count` tokens of positions `start` to `end`, or each of them with a chance."""

    start: Int[Array, " N"] | np.ndarray
    end: Int[Array, " N"] | np.ndarray
    count: Int[Array, " N"] | np.ndarray
    chance: Float[Array, " N"] | np.ndarray


def unmask_plan(length: int, steps: int, block_length: int | None = None) -> UnmaskPlan:
    """Shares `steps` among the blocks of a target, and the tokens of a block among its steps, as evenly as they go.

    The counts of a block add up to its length exactly. The chance is that of the reverse process from noise level t to
    s, (t - s) / t at equal steps from 1 to 0: one over the steps that are left. Raises UserError for fewer steps than
    blocks.
    """
    if block_length is not None and block_length < 1:
        raise UserError(f"A block is at least 1 token long, got {block_length}.")
    starts = list(range(0, length, block_length or length))
    if steps < len(starts):
        raise UserError(f"{len(starts)} blocks of {block_length} tokens need at least that many steps, got {steps}.")
    turns = []
    for index, start in enumerate(starts):
        end = min(start + (block_length or length), length)
        own = (index + 1) * steps // len(starts) - index * steps // len(starts)
        for turn in range(own):
            count = (turn + 1) * (end - start) // own - turn * (end - start) // own
            turns.append((start, end, count, 1 / (own - turn)))
    columns = [np.asarray(column) for column in zip(*turns)]
    start_of, end_of, count_of = (column.astype(np.int32) for column in columns[:3])
    return UnmaskPlan(start_of, end_of, count_of, columns[3].astype(np.float32))


# Which of the masked tokens are unmasked: from log-probabilities, who may be, noise, the step's count and its chance.
Order = Callable[
    [Float[Array, "B T"], Bool[Array, "B T"], Float[Array, "B T"], Int[Array, ""], Float[Array, ""]], Bool[Array, "B T"]
]


def most_confident(
    log_p: Float[Array, "B T"],
    masked: Bool[Array, "B T"],
    noise: Float[Array, "B T"],
    count: Int[Array, ""],
    chance: Float[Array, ""],
) -> Bool[Array, "B T"]:
    """The `count` masked tokens of the highest log-probability, the earlier of equals."""
    order = jnp.argsort(jnp.where(masked, -log_p, jnp.inf), axis=1, stable=True)
    return masked & (jnp.argsort(order, axis=1) < count)


def ancestral(
    log_p: Float[Array, "B T"],
    masked: Bool[Array, "B T"],
    noise: Float[Array, "B T"],
    count: Int[Array, ""],
    chance: Float[Array, ""],
) -> Bool[Array, "B T"]:
    """Each masked token with the chance of the reverse process."""
    return masked & (noise < chance)


ORDERS: Mapping[str, Order] = {"confidence": most_confident, "ancestral": ancestral}


@partial(jax.jit, static_argnames=("module", "order", "length", "shifted", "ids"))
def decode_masked(
    module: nn.Module,
    params: Any,
    prompt: Example,
    keys: Key[Array, " B"],
    sampler: Sampler,
    plan: UnmaskPlan,
    order: Order,
    length: int,
    shifted: bool,
    ids: TokenIds,
) -> Decoded:
    """Masked diffusion from `length` masks: each step predicts all of them, and keeps what `order` unmasks.

    The mask itself is never predicted. A token once unmasked stays.
    """
    net = Net(module, params)

    def advance(target, turn):
        index, start, end, count, chance = turn
        noise = _noise(keys, index, (2, length))
        predicted, log_p, _ = _predict(net, prompt, target, sampler, noise[:, 0], shifted, ids, forbidden=ids.mask)
        place = jnp.arange(length)[None, :]
        open_ = (target == ids.mask) & (place >= start) & (place < end)
        target = jnp.where(order(log_p, open_, noise[:, 1], count, chance), predicted, target)
        return target, target

    masks = jnp.full((keys.shape[0], length), ids.mask, jnp.int32)
    turns = (jnp.arange(plan.start.shape[0]), plan.start, plan.end, plan.count, plan.chance)
    target, states = jax.lax.scan(advance, masks, turns)
    calls = jnp.full(keys.shape, plan.start.shape[0], jnp.int32)
    return Decoded(target, calls, states=_history(masks, states))


@partial(jax.jit, static_argnames=("module", "length", "steps", "samples", "shifted", "ids"))
def decode_unrolled(
    module: nn.Module,
    params: Any,
    prompt: Example,
    keys: Key[Array, " B"],
    sampler: Sampler,
    length: int,
    steps: int,
    samples: int,
    shifted: bool,
    ids: TokenIds,
) -> Decoded:
    """AR2Diff's decoding (arXiv 2401.17181): from uniformly random tokens, every place is drawn anew at each step.

    Of the `samples`, the one with the lowest model score is returned: the cross-entropy of the last step's input under
    its output. `score` is minus that, in nats per token. Noise and updates follow SUNDAE.
    """
    net = Net(module, params)
    rows = keys.shape[0]
    keys_of_samples = sample_keys(keys, samples)
    prompt = jax.tree.map(lambda leaf: jnp.repeat(leaf, samples, axis=0), prompt)

    def advance(target, index):
        predicted, _, costs = _predict(
            net, prompt, target, sampler, _noise(keys_of_samples, index, (length,)), shifted, ids
        )
        return predicted, (predicted, jnp.mean(costs, axis=1))

    def random(key):
        return jax.random.randint(key, (length,), 0, ids.vocab_size, jnp.int32)

    start = jax.vmap(random)(fold_rows(keys_of_samples, steps))
    _, (states, costs) = jax.lax.scan(advance, start, jnp.arange(steps))
    score = -costs[-1].reshape(rows, samples)
    best = jnp.arange(rows) * samples + jnp.argmax(score, axis=1)
    states = _history(start, states)[best]
    return Decoded(states[:, -1], jnp.full(rows, steps, jnp.int32), jnp.max(score, axis=1), states)


def _predict(net, prompt, target, sampler, noise, shifted, ids, forbidden=None):
    """Predicts every token of the target; returns (tokens, their log-probabilities, losses of the tokens before).

    The head runs over a few rows at a time.
    """
    # The last token of a shifted target is predicted, and never an input.
    read = target[:, :-1] if shifted else target
    tokens = jnp.concatenate([prompt.decoder_input_tokens, read], axis=1)
    segments = jnp.concatenate([prompt.decoder_segments, jnp.ones_like(read)], axis=1)
    hidden = net.hidden(context_example(tokens, segments, bidirectional=True))[:, -target.shape[1] :]

    def head(row):
        hidden, target, noise = row
        logits = net.logits(hidden)[:, : ids.vocab_size]
        if forbidden is not None:
            logits = logits.at[:, forbidden].set(-jnp.inf)
        predicted = sampler(logits, noise)
        return predicted, -cross_entropy(logits, predicted), cross_entropy(logits, target)

    return jax.lax.map(head, (hidden, target, noise), batch_size=ROWS_AT_ONCE)


def _noise(keys, index, shape):
    """Uniform numbers for every row, from its key and the step alone."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(fold_rows(keys, index))


def _history(start, states):
    """[B, T] and [N, B, T] -> [B, N + 1, T]."""
    return jnp.moveaxis(jnp.concatenate([start[None], states]), 0, 1)
