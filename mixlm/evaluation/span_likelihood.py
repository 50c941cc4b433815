"""Scoring modes for encoder-decoders: a span becomes a sentinel, and the decoder predicts its tokens."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mixlm.errors import UserError
from mixlm.evaluation.reading import Rows
from mixlm.example import Example
from mixlm.losses.score import token_costs
from mixlm.objectives.continuation import replace_span
from mixlm.tokens import TokenIds


@runtime_checkable
class SpanLayout(Protocol):
    """The span that each row of a sentence takes out; the spans of a sentence cover its scored tokens, each once."""

    @property
    def kind(self) -> str:
        """The kind of the sum over a sentence's spans; see `mixlm.evaluation.likelihood.Mode`."""
        ...

    def width(self, length: int) -> int:
        """The longest span of a sentence of at most `length` tokens."""
        ...

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]: ...

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]: ...

    def bounds(self, rows: Rows) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        """The first token of each row's span, and the one after its last."""
        ...


@dataclass(frozen=True)
class Everything:
    """The whole sentence is the span: a likelihood in order, given nothing but a sentinel."""

    kind: ClassVar[str] = "likelihood"

    def width(self, length: int) -> int:
        return length

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return (lengths > 0).astype(np.int64)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return lengths

    def bounds(self, rows: Rows) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        return jnp.zeros_like(rows.lengths), rows.lengths


@dataclass(frozen=True)
class AfterPrefix:
    """The tokens after the prefix are the span; the encoder reads the prefix."""

    kind: ClassVar[str] = "likelihood"

    def width(self, length: int) -> int:
        return length

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return (lengths > 0).astype(np.int64)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return lengths - prefixes

    def bounds(self, rows: Rows) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        return rows.prefixes, rows.lengths


@dataclass(frozen=True)
class EachSpan:
    """Spans of `tokens` tokens side by side, one after the other taken out; the last may be shorter."""

    kind: ClassVar[str] = "pseudo"
    tokens: int = 1

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise UserError(f"A span that is filled holds at least one token, not {self.tokens}.")

    def width(self, length: int) -> int:
        return self.tokens

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return -(-lengths // self.tokens)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return lengths

    def bounds(self, rows: Rows) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        start = rows.copies * self.tokens
        return start, jnp.minimum(start + self.tokens, rows.lengths)


@dataclass(frozen=True)
class SpanFilling:
    """`sum log p(span | sentence with <extra_id_0> in its place)`, in the format of span corruption.

    The encoder reads the tokens around the sentinel and EOS; the targets are the sentinel, unscored, and the span.
    """

    tokens: TokenIds
    spans: SpanLayout

    @property
    def kind(self) -> str:
        """The kind of the sums over a sentence's spans."""
        return self.spans.kind

    def copies(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return self.spans.copies(lengths)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return self.spans.scored(lengths, prefixes)

    def example(self, rows: Rows) -> Example:
        """The encoder's inputs and the targets; the weights mark the span."""
        width = self.spans.width(rows.tokens.shape[1])
        return replace_span(rows.tokens, rows.lengths, *self.spans.bounds(rows), width, self.tokens)

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        example = self.example(rows)
        costs = token_costs(net.logits, net.hidden(example), example.decoder_target_tokens)
        return -jnp.sum(jnp.where(example.decoder_loss_weights > 0, costs, 0.0), axis=1)
