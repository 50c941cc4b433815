"""Scoring modes for decoders, each a frozen value: rows of tokens in, log-probabilities out.

A mode makes `copies(length)` rows of every sentence (one for each masked token, or for each noise sample) and sums, in
nats, the log-probabilities of the tokens that a row scores: the tokens of the sentence alone, no EOS. A sentence's
score is the sum over its rows, 0 where it has no token.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.losses.score import token_costs
from mixlm.losses.token_losses import cross_entropy
from mixlm.rng import place_keys
from mixlm.tokens import TokenIds


@struct.dataclass
class Rows:
    """Sentences as a batch: padded tokens, and per row the sentence's length and the length of its given prefix.

    `copies` says which of a sentence's rows this is. `noise` names the noise, one number for both sentences of a pair.
    A row of length 0 is a dummy.
    """

    tokens: Int[Array, "B L"]
    lengths: Int[Array, " B"]
    prefixes: Int[Array, " B"]
    copies: Int[Array, " B"]
    noise: Int[Array, " B"]

    @property
    def present(self) -> Bool[Array, "B L"]:
        """Mask of the sentence's tokens."""
        return jnp.arange(self.tokens.shape[1])[None, :] < self.lengths[:, None]


@runtime_checkable
class Mode(Protocol):
    """Hashable and equal by value, so that it is static under jit.

    `kind` is that of its sums: a "likelihood" of the text, a "bound" on it, or a "pseudo" likelihood, which is none.
    """

    @property
    def kind(self) -> str:
        """The kind of its sums."""
        ...

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Rows that a sentence of each length takes."""
        ...

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Number of scored tokens of each sentence: its last ones."""
        ...

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        """Each row's contribution to its sentence's log-probability, in nats."""
        ...


@runtime_checkable
class NamedMode(Mode, Protocol):
    """A mode from outside of the package, for the macro EXTRA_MODES: it brings the name that tables and MODES use."""

    @property
    def name(self) -> str:
        """The name of its column."""
        ...


@runtime_checkable
class SampledMode(Mode, Protocol):
    """A mode whose rows of a sentence are independent noise samples, an even number; tables show their noise."""

    @property
    def samples(self) -> int:
        """The rows of every sentence that has a token."""
        ...


@dataclass(frozen=True)
class CausalLikelihood:
    """`sum_i log p(x_i | bos, x_<i)`, the causal log-likelihood."""

    kind: ClassVar[str] = "likelihood"
    tokens: TokenIds

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return (lengths > 0).astype(np.int64)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return lengths

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        log_p = token_log_p(net, rows, self.tokens.bos)
        return jnp.sum(jnp.where(rows.present, log_p, 0.0), axis=1)


@dataclass(frozen=True)
class PrefixLikelihood:
    """`sum_{i >= s} log p(x_i | x_<i)` with no mask inside of the prefix x_<s, as prefix language models are trained.

    s is half of a text row and, in a pair, what both sentences begin with.
    """

    kind: ClassVar[str] = "likelihood"
    tokens: TokenIds

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return (lengths > 0).astype(np.int64)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return lengths - prefixes

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        log_p = token_log_p(net, rows, self.tokens.bos, rows.prefixes)
        scored = rows.present & (jnp.arange(rows.tokens.shape[1])[None, :] >= rows.prefixes[:, None])
        return jnp.sum(jnp.where(scored, log_p, 0.0), axis=1)


@dataclass(frozen=True)
class PseudoLikelihood:
    """`sum_i log p(x_i | x without i)`: one token at a time is masked, and the `following` next ones with it.

    Pseudo-log-likelihood (Salazar et al. 2020). `shifted` networks predict token i where they read token i - 1 (the
    Dual and GPT-BERT parameterisation) and read bos before the sentence, the others predict it where it is masked.
    """

    kind: ClassVar[str] = "pseudo"
    tokens: TokenIds
    shifted: bool
    following: int = 0

    def __post_init__(self) -> None:
        if self.following < 0:
            raise UserError(f"PseudoLikelihood.following must not be negative, got {self.following}.")

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return lengths

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return lengths

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        place = jnp.arange(rows.tokens.shape[1])[None, :] - rows.copies[:, None]
        hidden = _read_masked(net, rows, (place >= 0) & (place <= self.following), self.tokens, self.shifted)
        each = jnp.arange(len(rows.copies))
        cost = cross_entropy(net.logits(hidden[each, rows.copies]), rows.tokens[each, rows.copies])
        return -jnp.where(rows.lengths > 0, cost, 0.0)


@dataclass(frozen=True)
class DiffusionBound:
    """A lower bound on log p(x) by masked diffusion: `E_k [T/k sum_{i masked} log p(x_i | x with k masks)]`.

    k is uniform over 1..T and the k masks are uniform over their sets, which is the integral of the continuous-time
    bound (`E_t [1/t sum]` with independent masks) done exactly over t, so less noisy. `samples` (even) levels are
    stratified. Two sentences with the same `noise` share levels, and masks on the tokens that they begin and end with.
    """

    kind: ClassVar[str] = "bound"
    tokens: TokenIds
    shifted: bool
    samples: int = 16  # Ours: as many rows as a sentence of 16 tokens takes under pseudo-likelihood.
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 2 or self.samples % 2:
            raise UserError(f"The noise samples of a diffusion bound are an even number above 0, not {self.samples}.")

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return np.where(lengths > 0, self.samples, 0)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return lengths

    def masks(self, rows: Rows) -> tuple[Bool[Array, "B L"], Int[Array, " B"]]:
        """Returns (mask of masked tokens, their number)."""
        uniform, length = jax.random.uniform, rows.tokens.shape[1]

        def noise(name, copy):
            return jax.vmap(uniform)(place_keys(self.seed, name, copy, 1 + 2 * length))

        drawn = jax.vmap(noise)(rows.noise, rows.copies)
        level = (rows.copies + drawn[:, 0]) / self.samples
        count = jnp.minimum((level * rows.lengths).astype(jnp.int32), rows.lengths - 1) + 1
        place = jnp.arange(length)[None, :]
        from_right = jnp.clip(rows.lengths[:, None] - 1 - place, 0)
        index = jnp.where(place < rows.prefixes[:, None], 1 + 2 * place, 2 + 2 * from_right)
        rank = jnp.take_along_axis(drawn, index, axis=1)
        rank = jnp.argsort(jnp.argsort(jnp.where(rows.present, rank, jnp.inf), axis=1), axis=1)
        return (rank < count[:, None]) & rows.present, count

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        masked, count = self.masks(rows)
        hidden = _read_masked(net, rows, masked, self.tokens, self.shifted)[:, : rows.tokens.shape[1]]
        log_p = -token_costs(net.logits, hidden, rows.tokens)
        weight = rows.lengths / (jnp.maximum(count, 1) * self.samples)
        return weight * jnp.sum(jnp.where(masked, log_p, 0.0), axis=1)


@dataclass(frozen=True)
class Fused:
    """The sum of a causal and a masked score, for ranking only (GPT-BERT's `rank_fused`)."""

    kind: ClassVar[str] = "ranking"
    parts: tuple[Mode, ...]


def token_log_p(net: Any, rows: Rows, bos: int, prefixes: Int[Array, " B"] | None = None) -> Float[Array, "B L"]:
    """Log-probability of every token given those before it; within `prefixes`, tokens and bos attend to each other.

    What stands at padding, and with prefixes inside of them, means nothing.
    """
    prefixes = jnp.zeros_like(rows.lengths) if prefixes is None else prefixes
    place = jnp.arange(rows.tokens.shape[1])[None, :]
    example = Example(
        decoder_input_tokens=_after(bos, rows.tokens)[:, :-1],
        decoder_target_tokens=rows.tokens,
        decoder_loss_weights=jnp.zeros(rows.tokens.shape),
        decoder_mask_ar=(place > prefixes[:, None]).astype(jnp.int32),
        decoder_segment_ids=rows.present.astype(jnp.int32),
    )
    return -token_costs(net.logits, net.hidden(example), rows.tokens)


def _read_masked(
    net: Any, rows: Rows, masked: Bool[Array, "B L"], tokens: TokenIds, shifted: bool
) -> Float[Array, "B T D"]:
    """Hidden states over a masked sentence; number i predicts token i.

    A shifted network reads one position more, so that the last token is context for the others.
    """
    read = jnp.where(masked & rows.present, tokens.mask, rows.tokens)
    present = rows.present
    if shifted:
        read = _after(tokens.bos, read)
        present = jnp.pad(present, ((0, 0), (1, 0)), constant_values=True)
    example = Example(
        decoder_input_tokens=read,
        decoder_target_tokens=read,
        decoder_loss_weights=jnp.zeros(read.shape),
        decoder_mask_ar=jnp.zeros_like(read),
        decoder_segment_ids=present.astype(jnp.int32),
    )
    return net.hidden(example)


def _after(bos: int, tokens: Int[Array, "B L"]) -> Int[Array, "B T"]:
    return jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=bos)
