"""Scoring modes for decoders, each a frozen value."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mixlm.errors import UserError
from mixlm.evaluation.base import Mode
from mixlm.evaluation.reading import Context, Predicted, Rows, read_causally, read_masked
from mixlm.losses.score import token_predictions
from mixlm.losses.softmax import is_first_largest
from mixlm.losses.token_losses import cross_entropy
from mixlm.rng import place_keys
from mixlm.tokens import TokenIds


@dataclass(frozen=True)
class _InContext:
    """A mode that reads a sentence in a `context`; None is its own: bos where it predicts to the left, else nothing.

    Where it predicts to the left and nothing stands there, the first token is not scored. See `TokenMode` for `answer`.
    """

    tokens: TokenIds
    context: Context | None = field(default=None, kw_only=True)
    answer: bool = field(default=False, kw_only=True)

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

    def start(self, rows: Rows) -> Int[Array, " B"]:
        """The first token of each row that is scored."""
        return jnp.maximum(rows.prefixes if self.answer else 0, jnp.full_like(rows.lengths, self.first))

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return np.maximum(lengths - np.maximum(prefixes if self.answer else 0, self.first), 0)

    def copies(
        self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"] | None = None
    ) -> Int[np.ndarray, " N"]:
        """One row of what has a token to score."""
        return (self.scored(lengths, np.zeros_like(lengths) if prefixes is None else prefixes) > 0).astype(np.int64)

    def predict(self, net: Any, rows: Rows) -> Predicted:
        raise NotImplementedError

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        return jnp.sum(self.predict(net, rows).log_p, axis=1)


@dataclass(frozen=True)
class CausalLikelihood(_InContext):
    """`sum_i log p(x_i | bos, x_<i)`, the causal log-likelihood, or given another context than bos."""

    kind: ClassVar[str] = "likelihood"

    def predict(self, net: Any, rows: Rows) -> Predicted:
        hidden = read_causally(net, rows, self.reads)
        scored = rows.from_token(self.start(rows)[:, None])
        return Predicted.of(scored, *token_predictions(net.logits, hidden, rows.tokens))


@dataclass(frozen=True)
class PrefixLikelihood(_InContext):
    """`sum_{i >= s} log p(x_i | x_<i)` with no mask inside of the prefix x_<s, as prefix language models are trained.

    s is half of a text row, in a pair what both sentences begin with, and of a question and its answer the question.
    """

    kind: ClassVar[str] = "likelihood"
    answer: bool = field(default=True, init=False)

    def predict(self, net: Any, rows: Rows) -> Predicted:
        hidden = read_causally(net, rows, self.reads, rows.prefixes)
        scored = rows.from_token(self.start(rows)[:, None])
        return Predicted.of(scored, *token_predictions(net.logits, hidden, rows.tokens))


@dataclass(frozen=True)
class PseudoLikelihood(_InContext):
    """`sum_i log p(x_i | x without i)`: one token at a time is masked, and the `following` next ones with it.

    Pseudo-log-likelihood (Salazar et al. 2020). `shifted` networks predict token i where they read token i - 1 (the
    Dual and GPT-BERT parameterisation) and read bos before the sentence, the others predict it where it is masked.
    With `word` the rest of the token's word is masked too (Kauf and Ivanova 2023, PLL-word-l2r).
    """

    kind: ClassVar[str] = "pseudo"
    shifted: bool
    following: int = 0
    word: bool = False

    def __post_init__(self) -> None:
        if self.following < 0:
            raise UserError(f"PseudoLikelihood.following must not be negative, got {self.following}.")

    @property
    def predicts_left(self) -> bool:
        return self.shifted

    def copies(
        self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"] | None = None
    ) -> Int[np.ndarray, " N"]:
        return self.scored(lengths, np.zeros_like(lengths) if prefixes is None else prefixes)

    def masked(self, rows: Rows, token: Int[Array, " B"]) -> Bool[Array, "B L"]:
        """The tokens that are masked where `token` is scored; UserError where words are asked for and not known."""
        after = jnp.arange(rows.tokens.shape[1])[None, :] - token[:, None]
        near = after <= self.following
        if self.word:
            if rows.words is None:
                raise UserError("The rest of a word is masked only where the words of the sentences are known.")
            near |= rows.words == jnp.take_along_axis(rows.words, token[:, None], axis=1)
        return (after >= 0) & near

    def hidden_tokens(self, rows: Rows) -> Bool[Array, "B L"]:
        """Mask of the masked tokens."""
        return self.masked(rows, rows.copies + self.start(rows))

    def predict(self, net: Any, rows: Rows) -> Predicted:
        token = rows.copies + self.start(rows)
        masked = self.masked(rows, token)
        hidden = read_masked(net, rows, masked, self.tokens.mask, self.shifted, self.reads)
        each = jnp.arange(len(token))
        logits, target = net.logits(hidden[each, token]), rows.tokens[each, token]
        scored = rows.present & (jnp.arange(rows.tokens.shape[1])[None, :] == token[:, None])
        cost, likeliest = cross_entropy(logits, target), is_first_largest(logits, target)
        return Predicted.of(scored, cost[:, None], likeliest[:, None])


@dataclass(frozen=True)
class DiffusionBound(_InContext):
    """A lower bound on log p(x) by masked diffusion: `E_k [T/k sum_{i masked} log p(x_i | x with k masks)]`.

    k is uniform over 1..T and the k masks are uniform over their sets, which is the integral of the continuous-time
    bound (`E_t [1/t sum]` with independent masks) done exactly over t, so less noisy. `samples` (even) levels are
    stratified. Two sentences with the same `noise` share levels, and masks on the tokens that they begin and end with.
    Of an answer it is the bound on log p(answer | question), whose masks fall on the answer alone.
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

    def copies(
        self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"] | None = None
    ) -> Int[np.ndarray, " N"]:
        return self.samples * super().copies(lengths, prefixes)

    def masks(self, rows: Rows) -> tuple[Bool[Array, "B L"], Int[Array, " B"]]:
        """Returns (mask of masked tokens, their number)."""
        uniform, length = jax.random.uniform, rows.tokens.shape[1]

        def noise(name, copy):
            return jax.vmap(uniform)(place_keys(self.seed, name, copy, 1 + 2 * length))

        drawn = jax.vmap(noise)(rows.noise, rows.copies)
        level = (rows.copies + drawn[:, 0]) / self.samples
        scored = rows.lengths - self.start(rows)
        count = jnp.minimum((level * scored).astype(jnp.int32), scored - 1) + 1
        place = jnp.arange(length)[None, :]
        from_right = jnp.clip(rows.lengths[:, None] - 1 - place, 0)
        index = jnp.where(place < rows.prefixes[:, None], 1 + 2 * place, 2 + 2 * from_right)
        rank = jnp.take_along_axis(drawn, index, axis=1)
        candidates = rows.from_token(self.start(rows)[:, None])
        rank = jnp.argsort(jnp.argsort(jnp.where(candidates, rank, jnp.inf), axis=1), axis=1)
        return (rank < count[:, None]) & candidates, count

    def hidden_tokens(self, rows: Rows) -> Bool[Array, "B L"]:
        """Mask of the masked tokens."""
        return self.masks(rows)[0]

    def predict(self, net: Any, rows: Rows) -> Predicted:
        masked, count = self.masks(rows)
        hidden = read_masked(net, rows, masked, self.tokens.mask, self.shifted, self.reads)
        weight = (rows.lengths - self.start(rows)) / (jnp.maximum(count, 1) * self.samples)
        return Predicted.of(masked, *token_predictions(net.logits, hidden, rows.tokens), weight[:, None])


@dataclass(frozen=True)
class Fused:
    """The sum of a causal and a masked score, for ranking only (GPT-BERT's `rank_fused`)."""

    kind: ClassVar[str] = "ranking"
    parts: tuple[Mode, ...]
