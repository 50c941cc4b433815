"""Beam search with GNMT's length penalty."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mixlm.decoding.autoregressive import Decoded, Number, decode_step, prefill
from mixlm.example import Example
from mixlm.network import Net
from mixlm.tokens import TokenIds

LENGTH_PENALTY = 0.6  # GNMT's range for translation is 0.6 to 0.7; T5X decodes with 0.6.


@struct.dataclass
class Beams:
    """Unfinished texts [B, K, T] with their log-probabilities, and the best finished text of each row."""

    place: Int[Array, ""]
    calls: Int[Array, " B"]
    output: Int[Array, "B K T"]
    log_p: Float[Array, "B K"]
    parents: Int[Array, " R"]
    done: Int[Array, "B T"]
    score: Float[Array, " B"]
    going: Bool[Array, " B"]


@partial(jax.jit, static_argnames=("module", "beams", "length", "ids"))
def beam_search(
    module: nn.Module, params: Any, prompt: Example, length_penalty: Number, beams: int, length: int, ids: TokenIds
) -> Decoded:
    """The best text of at most `length` tokens by `log p / ((5 + tokens) / 6)^length_penalty` (GNMT, equation 14).

    EOS counts as a token; a text without one counts where it is `length` tokens long. `score` is that figure. A penalty
    of 0 compares log-probabilities, above 0 it favours longer texts. With beams enough for all beginnings it is exact.
    """
    net = Net(module, params)
    hidden, cache = prefill(module, net, prompt, length)
    rows = hidden.shape[0]
    first = jnp.repeat(_log_p(net, hidden, ids)[:, None], beams, axis=1)
    start = Beams(
        place=jnp.zeros((), jnp.int32),
        calls=jnp.zeros(rows, jnp.int32),
        output=jnp.full((rows, beams, length), ids.pad, jnp.int32),
        # All beams begin as the same empty text: only one of them may be continued.
        log_p=jnp.full((rows, beams), -jnp.inf).at[:, 0].set(0.0),
        parents=jnp.arange(rows * beams),
        done=jnp.full((rows, length), ids.pad, jnp.int32),
        score=jnp.full(rows, -jnp.inf),
        going=jnp.ones(rows, bool),
    )

    def grow(state, log_p):
        return _grown(state, log_p, length_penalty, ids)

    def advance(carry):
        state, cache = carry
        last = state.output[:, :, state.place - 1].reshape(-1)
        hidden, cache = decode_step(net, last, cache.rows(state.parents))
        return grow(state, _log_p(net, hidden, ids).reshape(rows, beams, -1)), cache

    cache = cache.rows(jnp.repeat(jnp.arange(rows), beams))
    state, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[0].going), advance, (grow(start, first), cache))
    unfinished = state.log_p[:, 0] / _penalty(length, length_penalty)
    better = (unfinished > state.score) & (state.place == length)
    output = jnp.where(better[:, None], state.output[:, 0], state.done)
    return Decoded(output, state.calls, jnp.where(better, unfinished, state.score))


def _grown(state: Beams, log_p: Float[Array, "B K V"], length_penalty: Number, ids: TokenIds) -> Beams:
    """Every beginning with every token behind it: the best of those that end, and the best K of those that do not."""
    rows, beams, size = log_p.shape
    length = state.output.shape[2]
    tokens = state.place + 1
    scores = state.log_p[:, :, None] + log_p
    ended = scores[:, :, ids.eos] / _penalty(tokens, length_penalty)
    row = jnp.arange(rows)
    best = jnp.argmax(ended, axis=1)
    score = ended[row, best]
    finished = state.output[row, best].at[:, state.place].set(ids.eos)
    better = score > state.score
    done, score = jnp.where(better[:, None], finished, state.done), jnp.where(better, score, state.score)

    open_scores = scores.at[:, :, ids.eos].set(-jnp.inf).reshape(rows, -1)
    log_p, index = jax.lax.top_k(open_scores, beams)
    parent = index // size
    output = jnp.take_along_axis(state.output, parent[:, :, None], axis=1).at[:, :, state.place].set(index % size)
    # An unfinished text can only lose probability, and no text is divided by more than the longest.
    hope = log_p[:, 0] / _penalty(length, length_penalty)
    return Beams(
        place=tokens,
        calls=state.calls + state.going,
        output=output,
        log_p=log_p,
        parents=(row[:, None] * beams + parent).reshape(-1),
        done=done,
        score=score,
        going=(hope > score) & (tokens < length),
    )


def _penalty(tokens: Int[Array, ""] | int, length_penalty: Number) -> Float[Array, ""]:
    return jnp.asarray((5.0 + tokens) / 6.0) ** length_penalty


def _log_p(net: Net, hidden: Float[Array, "*n D"], ids: TokenIds) -> Float[Array, "*n V"]:
    return jax.nn.log_softmax(net.logits(hidden)[..., : ids.vocab_size], axis=-1)
