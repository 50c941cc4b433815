"""Autoregressive decoding with a KV cache: greedy, or sampled with temperature, top-k and top-p.

A prompt is an `Example` whose last position predicts the first new token; its mask may be bidirectional.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.network import EncoderDecoderNetwork, Net
from mixlm.objectives.corruption import sample
from mixlm.rng import fold_rows
from mixlm.tokens import TokenIds

Number = float | Float[Array, ""]
PROMPT_MULTIPLE = 16  # Ours: prompts are padded to a few lengths, so that few executables are compiled.


@struct.dataclass
class Decoded:
    """New tokens, padded after EOS, and the network calls that each row took, each of all its beams or samples.

    `score` is what a beam search, or a choice among samples, maximises. `states` are a diffusion's target before its
    first step and after each.
    """

    tokens: Int[Array, "B T"]
    calls: Int[Array, " B"]
    score: Float[Array, " B"] | None = None
    states: Int[Array, "B N T"] | None = None


@struct.dataclass
class Sampler:
    """Samples softmax(logits / temperature), cut to the `top_k` likeliest tokens and then to a nucleus of `top_p`.

    `top_p` is a share of the probability that `top_k` left. Temperature 0 is greedy; `top_k` 0 and `top_p` 1
    cut nothing. The numbers may be traced, so that one executable serves them all.
    """

    temperature: Number = 0.0
    top_k: int | Int[Array, ""] = 0
    top_p: Number = 1.0

    def __call__(self, logits: Float[Array, "*n V"], noise: Float[Array, "*n"]) -> Int[Array, "*n"]:
        """A token for each of the rows; `noise` is uniform in [0, 1)."""

        def draw() -> Int[Array, "*n"]:
            # Below 0, so that no division by a temperature near 0 overflows to +inf.
            scaled = (logits - jnp.max(logits, axis=-1, keepdims=True)) / jnp.maximum(self.temperature, 1e-30)
            cuts = jnp.logical_or(self.top_k > 0, self.top_p < 1)
            return sample(jax.lax.cond(cuts, self.cut, lambda same: same, scaled), noise).astype(jnp.int32)

        def likeliest() -> Int[Array, "*n"]:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)

        return jax.lax.cond(jnp.greater(self.temperature, 0), draw, likeliest)

    def cut(self, logits: Float[Array, "*n V"]) -> Float[Array, "*n V"]:
        """The logits, -inf for tokens that may not be chosen; of two equal ones the lower token is the likelier."""
        order = jnp.argsort(-logits, axis=-1, stable=True)
        rank = jnp.argsort(order, axis=-1)
        kept = jnp.logical_or(rank < self.top_k, jnp.equal(self.top_k, 0))
        shares = jax.nn.softmax(jnp.where(kept, logits, -jnp.inf), axis=-1)
        descending = jnp.take_along_axis(shares, order, axis=-1)
        before = jnp.take_along_axis(jnp.cumsum(descending, axis=-1) - descending, rank, axis=-1)
        # The sum may round to less than 1, or reach it early: neither the first token nor a share of 1 depends on it.
        kept &= (before < self.top_p) | (rank == 0) | jnp.greater_equal(self.top_p, 1)
        return jnp.where(kept, logits, -jnp.inf)


def checked_sampler(temperature: float, top_k: int = 0, top_p: float = 1.0) -> Sampler:
    """A sampler, checked; UserError for numbers out of range, or that have no effect."""
    if not 0 <= temperature < float("inf"):
        raise UserError(f"A temperature is a number from 0 on, got {temperature}.")
    if top_k < 0:
        raise UserError(f"top_k is a number of tokens, or 0 for all of them, got {top_k}.")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p is a share of the probability, above 0 and at most 1, got {top_p}.")
    if temperature == 0 and (top_k or top_p != 1):
        name = "top_k" if top_k else "top_p"
        raise UserError(f"{name} cuts what is drawn from, and nothing is drawn at temperature 0: give a temperature.")
    return Sampler(temperature, top_k, top_p)


def decoder_prompts(rows: Sequence[Sequence[int]], bidirectional: bool = False) -> Example:
    """Prompts of any lengths for a decoder, causal or bidirectional."""
    tokens, segments = _padded(rows)
    return context_example(tokens, segments, bidirectional)


def encoder_prompts(rows: Sequence[Sequence[int]], bos: int) -> Example:
    """Prompts for an encoder, or for a decoder's bidirectional prefix; the new text starts from `bos`."""
    tokens, segments = _padded(rows)
    first = jnp.full((len(rows), 1), bos, jnp.int32)
    return replace(
        context_example(first, jnp.ones_like(first)), encoder_input_tokens=tokens, encoder_segment_ids=segments
    )


def context_example(tokens: Int[Array, "B T"], segments: Int[Array, "B T"], bidirectional: bool = False) -> Example:
    """An example of context alone, with nothing scored; segment 0 is padding."""
    return Example(
        decoder_input_tokens=tokens,
        decoder_target_tokens=tokens,
        decoder_loss_weights=jnp.zeros(tokens.shape),
        decoder_mask_ar=jnp.zeros_like(tokens) if bidirectional else jnp.ones_like(tokens),
        decoder_segment_ids=segments,
    )


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """The tokens and their segments, 1 or, where padded, 0.

    Padding is at the left, so that new text follows on every prompt without a gap: all our positions are relative.
    """
    length = -(-max(map(len, rows)) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
    tokens, segments = np.zeros((2, len(rows), length), np.int32)
    for row, ids in enumerate(rows):
        place = slice(length - len(ids), length)
        tokens[row, place], segments[row, place] = ids, 1
    return jnp.asarray(tokens), jnp.asarray(segments)


def prefill(module: nn.Module, net: Net, prompt: Example, length: int) -> tuple[Float[Array, "B D"], Any]:
    """Prefill: hidden states that predict the first of `length` new tokens, and a cache with slots for the others."""
    slots = prompt.decoder_input_tokens.shape[1] + length - 1
    if prompt.encoder_input_tokens is not None and not isinstance(module, EncoderDecoderNetwork):
        slots += prompt.encoder_input_tokens.shape[1]
    hidden, cache = net.extend(prompt, net.empty_cache(prompt, slots))
    return hidden[:, -1], cache


def decode_step(net: Net, tokens: Int[Array, " B"], cache: Any) -> tuple[Float[Array, "B D"], Any]:
    """Feeds one token of every row: the hidden states that predict the next one, and the longer cache."""
    hidden, cache = net.extend(context_example(tokens[:, None], jnp.ones_like(tokens)[:, None]), cache)
    return hidden[:, -1], cache


@partial(jax.jit, static_argnames=("module", "length", "ids"))
def decode_autoregressive(
    module: nn.Module,
    params: Any,
    prompt: Example,
    keys: Key[Array, " B"],
    sampler: Sampler,
    length: int,
    ids: TokenIds,
) -> Decoded:
    """Decodes up to `length` new tokens a row, EOS included; a row's noise is a function of its key alone.

    Each token passes the network once, thanks to the KV cache; the loop ends when every row has ended.
    """
    net = Net(module, params)

    def pick_token(hidden: Float[Array, "B D"], place: Int[Array, ""] | int) -> Int[Array, " B"]:
        noise = jax.vmap(jax.random.uniform)(fold_rows(keys, place))
        return sampler(net.logits(hidden)[:, : ids.vocab_size], noise)

    return _decode(module, net, prompt, pick_token, length, ids.eos, ids.pad)


@partial(jax.jit, static_argnames=("module", "length", "bos", "eos"))
def fill_spans(
    module: nn.Module,
    params: Any,
    inputs: Int[Array, "B S"],
    length: int,
    bos: int,
    eos: int,
    segments: Int[Array, "B S"] | None = None,
) -> Int[Array, "B T"]:
    """Greedy decoding of `length` tokens for encoder inputs [B, S]; padded (0) after EOS.

    Without `segments`, token 0 of the inputs is padding.
    """
    net = Net(module, params)
    first = jnp.full((inputs.shape[0], 1), bos, jnp.int32)
    prompt = replace(
        context_example(first, jnp.ones_like(first)), encoder_input_tokens=inputs, encoder_segment_ids=segments
    )

    def likeliest(hidden: Float[Array, "B D"], place: Int[Array, ""] | int) -> Int[Array, " B"]:
        return jnp.argmax(net.logits(hidden), axis=-1).astype(jnp.int32)

    return _decode(module, net, prompt, likeliest, length, eos, 0).tokens.astype(inputs.dtype)


def _decode(module, net, prompt, pick_token, length, eos, pad) -> Decoded:
    rows = prompt.decoder_input_tokens.shape[0]

    def write(output, place, token, going):
        token = jnp.where(going, token, pad)
        return output.at[:, place].set(token), token, going & (token != eos)

    def unfinished(carry):
        place, _, _, going, _ = carry
        return (place < length) & jnp.any(going)

    def advance(carry):
        place, output, token, going, cache = carry
        hidden, cache = decode_step(net, token, cache)
        return place + 1, *write(output, place, pick_token(hidden, place), going), cache

    hidden, cache = prefill(module, net, prompt, length)
    nothing = jnp.full((rows, length), pad, jnp.int32)
    output = write(nothing, 0, pick_token(hidden, 0), jnp.ones(rows, bool))
    place, output, _, _, _ = jax.lax.while_loop(unfinished, advance, (1, *output, cache))
    # A row needs a call for each of its tokens, EOS included, however long the other rows go on.
    ends = jnp.argmax(output == eos, axis=1) + 1
    return Decoded(output, jnp.where(jnp.any(output == eos, axis=1), ends, place).astype(jnp.int32))
