"""Scoring modes for encoder-decoders: a span becomes a sentinel, and the decoder predicts its tokens."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mixlm.errors import UserError
from mixlm.evaluation.reading import Predicted, Rows
from mixlm.example import Example
from mixlm.losses.score import token_predictions
from mixlm.objectives.continuation import replace_span
from mixlm.tokens import TokenIds


@runtime_checkable
class SpanLayout(Protocol):
    """The span that each row of a sentence takes out; the spans of a sentence cover its scored tokens, each once."""

    @property
    def kind(self) -> str:
        """The kind of the sum over a sentence's spans; see `mixlm.evaluation.base.Mode`."""
        ...

    def width(self, length: int) -> int:
        """The longest span of a sentence of at most `length` tokens."""
        ...

    @property
    def answer(self) -> bool:
        """True where the tokens of the prefix are not scored."""
        ...

    def copies(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]: ...

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]: ...

    def bounds(self, rows: Rows) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        """The first token of each row's span, and the one after its last."""
        ...


@dataclass(frozen=True)
class Everything:
    """The whole sentence is the span: a likelihood in order, given nothing but a sentinel, and the question before."""

    kind: ClassVar[str] = "likelihood"
    answer: bool = False

    def width(self, length: int) -> int:
        return length

    def copies(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return (self.scored(lengths, prefixes) > 0).astype(np.int64)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return lengths - prefixes if self.answer else lengths

    def bounds(self, rows: Rows) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        return jnp.zeros_like(rows.lengths), rows.lengths


@dataclass(frozen=True)
class AfterPrefix:
    """The tokens after the prefix are the span; the encoder reads the prefix."""

    kind: ClassVar[str] = "likelihood"
    answer: ClassVar[bool] = True

    def width(self, length: int) -> int:
        return length

    def copies(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
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
    answer: bool = False

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise UserError(f"A span that is filled holds at least one token, not {self.tokens}.")

    def width(self, length: int) -> int:
        return self.tokens

    def copies(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return -(-self.scored(lengths, prefixes) // self.tokens)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return lengths - prefixes if self.answer else lengths

    def bounds(self, rows: Rows) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        start = rows.copies * self.tokens + (rows.prefixes if self.answer else 0)
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

    @property
    def answer(self) -> bool:
        """True where the tokens of the prefix are not scored."""
        return self.spans.answer

    def copies(
        self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"] | None = None
    ) -> Int[np.ndarray, " N"]:
        return self.spans.copies(lengths, np.zeros_like(lengths) if prefixes is None else prefixes)

    def scored(self, lengths: Int[np.ndarray, " N"], prefixes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return self.spans.scored(lengths, prefixes)

    def example(self, rows: Rows) -> Example:
        """The encoder's inputs and the targets; the weights mark the span."""
        width = self.spans.width(rows.tokens.shape[1])
        return replace_span(rows.tokens, rows.lengths, *self.spans.bounds(rows), width, self.tokens)

    def predict(self, net: Any, rows: Rows) -> Predicted:
        example, (start, end) = self.example(rows), self.spans.bounds(rows)
        found = token_predictions(net.logits, net.hidden(example), example.decoder_target_tokens)
        # The targets are the sentinel and the span, so that token t of the row is target t - start + 1.
        place = jnp.arange(rows.tokens.shape[1])[None, :]
        target = jnp.clip(place - start[:, None] + 1, 0, found[0].shape[1] - 1)
        scored = (place >= start[:, None]) & (place < end[:, None])
        if self.answer:
            scored &= place >= rows.prefixes[:, None]
        return Predicted.of(scored, *(jnp.take_along_axis(each, target, axis=1) for each in found))

    def __call__(self, net: Any, rows: Rows) -> Float[Array, " B"]:
        return jnp.sum(self.predict(net, rows).log_p, axis=1)
