"""Sentences as a network reads them: rows of tokens in a context, and the hidden states that predict each token."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mixlm.example import Example
from mixlm.losses.score import token_costs


@struct.dataclass
class Rows:
    """Sentences as a batch: padded tokens, and per row the sentence's length and the length of its given prefix.

    `copies` says which of a sentence's rows this is. `noise` names the noise, one number for both sentences of a pair.
    A row of length 0 is a dummy. `previous` is the token before each sentence in its text, which is read in place of
    the last one of the context; 0 where it begins one, and None where all do. `words` is the number of each token's
    word, None where no mode asks for it, and `others` are the tokens of a sentence that may share the row.
    """

    tokens: Int[Array, "B L"]
    lengths: Int[Array, " B"]
    prefixes: Int[Array, " B"]
    copies: Int[Array, " B"]
    noise: Int[Array, " B"]
    previous: Int[Array, " B"] | None = None
    words: Int[Array, "B L"] | None = None
    others: Int[Array, "B L"] | None = None

    @property
    def present(self) -> Bool[Array, "B L"]:
        """Mask of the sentence's tokens."""
        return self.from_token(0)

    def from_token(self, first: int | Int[Array, "B 1"]) -> Bool[Array, "B L"]:
        """Mask of the sentence's tokens from number `first` on."""
        place = jnp.arange(self.tokens.shape[1])[None, :]
        return (place >= first) & (place < self.lengths[:, None])


@struct.dataclass
class Predicted:
    """What a row adds to each token's log-probability in nats, and the mask of tokens that it finds not the likeliest.

    Both are 0 at the tokens that the row does not score.
    """

    log_p: Float[Array, "B L"]
    missed: Bool[Array, "B L"]

    @classmethod
    def of(
        cls,
        scored: Bool[Array, "B L"],
        cost: Float[Array, "B ..."],
        likeliest: Bool[Array, "B ..."],
        weight: float | Float[Array, "B 1"] = 1.0,
    ) -> "Predicted":
        """The predictions at the tokens that are `scored`, from their cross-entropies."""
        return cls(jnp.where(scored, -weight * cost, 0.0), scored & ~likeliest)


@dataclass(frozen=True)
class Context:
    """Special tokens that are read before and after a sentence, and not scored."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


def in_context(
    tokens: Int[Array, "B L"],
    lengths: Int[Array, " B"],
    context: Context,
    previous: Int[Array, " B"] | None = None,
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """Rows with their context, `after` right behind each sentence, and the mask of what is no padding.

    Where there is a `previous` token (above 0), it stands right before the sentence.
    """
    before, after = len(context.before), len(context.after)
    read = jnp.pad(tokens, ((0, 0), (before, after)))
    read = read.at[:, :before].set(jnp.asarray(context.before, read.dtype))
    if before and previous is not None:
        read = read.at[:, before - 1].set(jnp.where(previous > 0, previous, context.before[-1]))
    behind = jnp.arange(read.shape[1])[None, :] - (before + lengths[:, None])
    for number, token in enumerate(context.after):
        read = jnp.where(behind == number, token, read)
    return read, behind < after


def token_log_p(
    net: Any, rows: Rows, context: Context | int, prefixes: Int[Array, " B"] | None = None
) -> Float[Array, "B L"]:
    """Log-probability of every token given those before it, which `read_causally` describes."""
    return -token_costs(net.logits, read_causally(net, rows, context, prefixes), rows.tokens)


def read_causally(
    net: Any, rows: Rows, context: Context | int, prefixes: Int[Array, " B"] | None = None
) -> Float[Array, "B L D"]:
    """Hidden states that predict every token from those before it; within `prefixes`, they and the context see each
    other.

    `context` may be one token, such as bos. What stands at padding, with prefixes inside of them, and with nothing
    before the sentence at its first token, means nothing.
    """
    given = (context,) if isinstance(context, int) else context.before  # no token sees what follows the sentence
    prefixes = jnp.zeros_like(rows.lengths) if prefixes is None else prefixes
    read = in_context(rows.tokens, rows.lengths, Context(given), rows.previous)[0][:, :-1]  # [B, len(given) + L - 1]
    place = jnp.arange(read.shape[1])[None, :] - (len(given) - 1)
    example = Example(
        decoder_input_tokens=read,
        decoder_target_tokens=read,
        decoder_loss_weights=jnp.zeros(read.shape),
        decoder_mask_ar=(place > prefixes[:, None]).astype(jnp.int32),
        decoder_segment_ids=(place < rows.lengths[:, None]).astype(jnp.int32),
    )
    return _of_tokens(net.hidden(example), len(given) - 1, rows)


def read_masked(
    net: Any, rows: Rows, masked: Bool[Array, "B L"], mask: int, shifted: bool, context: Context
) -> Float[Array, "B L D"]:
    """Hidden states over a sentence with `mask` at its `masked` tokens; number i predicts token i.

    A shifted network predicts a token one position to the left; with nothing before the sentence, number 0 means
    nothing.
    """
    shown = jnp.where(masked & rows.present, mask, rows.tokens)
    read, present = in_context(shown, rows.lengths, context, rows.previous)
    example = Example(
        decoder_input_tokens=read,
        decoder_target_tokens=read,
        decoder_loss_weights=jnp.zeros(read.shape),
        decoder_mask_ar=jnp.zeros_like(read),
        decoder_segment_ids=present.astype(jnp.int32),
    )
    return _of_tokens(net.hidden(example), len(context.before) - shifted, rows)


def _of_tokens(hidden: Float[Array, "B T D"], first: int, rows: Rows) -> Float[Array, "B L D"]:
    """The hidden states from position `first` on, one a token; there is none at -1, so zeros stand for it."""
    if first < 0:
        hidden, first = jnp.pad(hidden, ((0, 0), (1, 0), (0, 0))), 0
    return hidden[:, first : first + rows.tokens.shape[1]]
