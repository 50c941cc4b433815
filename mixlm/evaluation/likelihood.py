"""Scoring modes for decoders, each a frozen value: rows of tokens in, log-probabilities out.

A mode makes `copies(length)` rows of every sentence (one for each masked token, or for each noise sample) and sums, in
nats, the log-probabilities of the tokens that a row scores: the tokens of the sentence alone, none of its `Context`. A
sentence's score is the sum over its rows, 0 where no token is scored.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mixlm.errors import UserError
from mixlm.evaluation.reading import Context, Rows, read_masked, token_log_p
from mixlm.losses.score import token_costs
from mixlm.losses.token_losses import cross_entropy
from mixlm.rng import place_keys
from mixlm.tokens import TokenIds


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
class _InContext:
    """A mode that reads a sentence in a `context`; None is its own: bos where it predicts to the left, else nothing.

    Where it predicts to the left and nothing stands there, the first token is not scored.
    """

    tokens: TokenIds
    context: Context | None = field(default=None, kw_only=True)

    @property
    def predicts_left(self) -> bool:
        """True where token i is predicted at position i - 1."""
        return True

    @property
    def reads(self) -> Context:
        """The context around every sentence."""
        own = Context((self.tokens.bos,) if self.predicts_left else ())
        return own if self.context is None else self.context

    @property
    def first(self) -> int:
        """The first token that is scored."""
        return int(self.predicts_left and not self.reads.before)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return np.maximum(lengths - self.first, 0)


@dataclass(frozen=True)
class CausalLikelihood(_InContext):
    """`sum_i log p(x_i | bos, x_<i)`, the causal log-likelihood, or given another context than bos."""

    kind: ClassVar[str] = "likelihood"

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return (lengths > self.first).astype(np.int64)

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        log_p = token_log_p(net, rows, self.reads)
        return jnp.sum(jnp.where(rows.from_token(self.first), log_p, 0.0), axis=1)


@dataclass(frozen=True)
class PrefixLikelihood(_InContext):
    """`sum_{i >= s} log p(x_i | x_<i)` with no mask inside of the prefix x_<s, as prefix language models are trained.

    s is half of a text row and, in a pair, what both sentences begin with.
    """

    kind: ClassVar[str] = "likelihood"

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return (lengths > self.first).astype(np.int64)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return np.maximum(lengths - np.maximum(prefixes, self.first), 0)

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        log_p = token_log_p(net, rows, self.reads, rows.prefixes)
        scored = rows.from_token(jnp.maximum(rows.prefixes, self.first)[:, None])
        return jnp.sum(jnp.where(scored, log_p, 0.0), axis=1)


@dataclass(frozen=True)
class PseudoLikelihood(_InContext):
    """`sum_i log p(x_i | x without i)`: one token at a time is masked, and the `following` next ones with it.

    Pseudo-log-likelihood (Salazar et al. 2020). `shifted` networks predict token i where they read token i - 1 (the
    Dual and GPT-BERT parameterisation) and read bos before the sentence, the others predict it where it is masked.
    """

    kind: ClassVar[str] = "pseudo"
    shifted: bool
    following: int = 0

    def __post_init__(self) -> None:
        if self.following < 0:
            raise UserError(f"PseudoLikelihood.following must not be negative, got {self.following}.")

    @property
    def predicts_left(self) -> bool:
        return self.shifted

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return self.scored(lengths, lengths)

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        token = rows.copies + self.first
        place = jnp.arange(rows.tokens.shape[1])[None, :] - token[:, None]
        masked = (place >= 0) & (place <= self.following)
        hidden = read_masked(net, rows, masked, self.tokens.mask, self.shifted, self.reads)
        each = jnp.arange(len(token))
        cost = cross_entropy(net.logits(hidden[each, token]), rows.tokens[each, token])
        return -jnp.where(rows.lengths > 0, cost, 0.0)


@dataclass(frozen=True)
class DiffusionBound(_InContext):
    """A lower bound on log p(x) by masked diffusion: `E_k [T/k sum_{i masked} log p(x_i | x with k masks)]`.

    k is uniform over 1..T and the k masks are uniform over their sets, which is the integral of the continuous-time
    bound (`E_t [1/t sum]` with independent masks) done exactly over t, so less noisy. `samples` (even) levels are
    stratified. Two sentences with the same `noise` share levels, and masks on the tokens that they begin and end with.
    """

    kind: ClassVar[str] = "bound"
    shifted: bool
    samples: int = 16  # Ours: as many rows as a sentence of 16 tokens takes under pseudo-likelihood.
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 2 or self.samples % 2:
            raise UserError(f"The noise samples of a diffusion bound are an even number above 0, not {self.samples}.")

    @property
    def predicts_left(self) -> bool:
        return self.shifted

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return np.where(lengths > self.first, self.samples, 0)

    def masks(self, rows: Rows) -> tuple[Bool[Array, "B L"], Int[Array, " B"]]:
        """Returns (mask of masked tokens, their number)."""
        uniform, length = jax.random.uniform, rows.tokens.shape[1]

        def noise(name, copy):
            return jax.vmap(uniform)(place_keys(self.seed, name, copy, 1 + 2 * length))

        drawn = jax.vmap(noise)(rows.noise, rows.copies)
        level = (rows.copies + drawn[:, 0]) / self.samples
        scored = rows.lengths - self.first
        count = jnp.minimum((level * scored).astype(jnp.int32), scored - 1) + 1
        place = jnp.arange(length)[None, :]
        from_right = jnp.clip(rows.lengths[:, None] - 1 - place, 0)
        index = jnp.where(place < rows.prefixes[:, None], 1 + 2 * place, 2 + 2 * from_right)
        rank = jnp.take_along_axis(drawn, index, axis=1)
        candidates = rows.from_token(self.first)
        rank = jnp.argsort(jnp.argsort(jnp.where(candidates, rank, jnp.inf), axis=1), axis=1)
        return (rank < count[:, None]) & candidates, count

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        masked, count = self.masks(rows)
        hidden = read_masked(net, rows, masked, self.tokens.mask, self.shifted, self.reads)
        log_p = -token_costs(net.logits, hidden, rows.tokens)
        weight = (rows.lengths - self.first) / (jnp.maximum(count, 1) * self.samples)
        return weight * jnp.sum(jnp.where(masked, log_p, 0.0), axis=1)


@dataclass(frozen=True)
class Fused:
    """The sum of a causal and a masked score, for ranking only (GPT-BERT's `rank_fused`)."""

    kind: ClassVar[str] = "ranking"
    parts: tuple[Mode, ...]
