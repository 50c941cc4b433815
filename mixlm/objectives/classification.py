"""Classification of texts by a head on one pooled hidden state, as BabyLM fine-tunes its models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mixlm.data.supervised.task import class_token
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.losses.softmax import is_first_largest
from mixlm.losses.terms import Term
from mixlm.losses.token_losses import cross_entropy
from mixlm.objectives.base import Batch, Nets, Targets
from mixlm.objectives.pairs import OfPairs
from mixlm.schedules import Step
from mixlm.tokens import TokenIds

POOLS = ("first", "last", "mean")


@dataclass(frozen=True)
class Classification(OfPairs):
    """`-log softmax(head(h))_c` for the class c of a text, which is read as BOS and its tokens.

    A row is the text after its padding and `class_token(c)`. `pool` says which hidden state h
    is: that of BOS, "first", or the "mean" over the text, both under attention that sees all of it; or that of the
    "last" token, under causal attention.
    """

    name: ClassVar[str] = "classification"
    tokens: TokenIds
    lengths: Mapping[str, int] | tuple[tuple[str, int], ...]
    pool: str = "first"
    network: str = "model"
    head: str = "class_head"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in POOLS:
            raise UserError(f"POOL is 'first', 'last' or 'mean', not {self.pool!r}.")
        if dict(self.lengths).get("targets") != 1:
            raise UserError(f"A class is one token, and TASK_FEATURE_LENGTHS are {dict(self.lengths)}: 'targets' is 1.")

    @property
    def networks(self) -> tuple[str, ...]:
        """The network, and its head."""
        return (self.network, self.head)

    def labels(self, batch: Batch) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
        """The class of each row, and True where it is an example and no padding."""
        held = batch["tokens"][:, -1]
        # The token of class c is its own inverse: V - 1 - c.
        return jnp.where(held > 0, class_token(held, self.tokens), 0), held > 0

    def example(self, batch: Batch) -> Example:
        """Tokens [B, S + 1] -> BOS and the text [B, S + 1], without the class."""
        rows = batch["tokens"]
        place, begins = jnp.arange(rows.shape[1])[None, :], self.begins(rows)
        read = jnp.pad(rows[:, :-1], ((0, 0), (1, 0)))
        present = place >= begins
        opens = jnp.full(rows.shape, int(self.pool == "last"))
        return Example(
            decoder_input_tokens=jnp.where(place == begins, self.tokens.bos, jnp.where(present, read, self.tokens.pad)),
            decoder_target_tokens=rows,
            decoder_loss_weights=jnp.zeros(rows.shape),
            decoder_mask_ar=opens,
            decoder_segment_ids=present.astype(jnp.int32),
        )

    def logits(self, nets: Nets, batch: Batch) -> Float[Array, "B C"]:
        """Float32 logits of the classes of each row."""
        hidden = nets[self.network].hidden(self.example(batch)).astype(jnp.float32)
        begins, places = self.begins(batch["tokens"]), jnp.arange(hidden.shape[1])[None, :]
        if self.pool == "last":
            pooled = hidden[:, -1]
        else:
            chosen = (places == begins if self.pool == "first" else places >= begins).astype(jnp.float32)
            pooled = jnp.einsum("bt,btd->bd", chosen, hidden) / jnp.sum(chosen, axis=1, keepdims=True)
        return nets[self.head](pooled)

    def __call__(self, nets: Nets, batch: Batch, keys: Key[Array, " B"], step: Int[Array, ""]) -> dict[str, Term]:
        """The mean loss of a text, and the share of texts whose likeliest class is not theirs."""
        logits, (labels, present) = self.logits(nets, batch), self.labels(batch)
        weights = present.astype(jnp.float32)
        count = jnp.sum(weights)
        cost = jnp.sum(cross_entropy(logits, labels) * weights)
        right = jnp.sum(is_first_largest(logits, labels) * weights)
        return {
            self.name: Term(cost, count),
            f"{self.name}/accuracy": Term(right, count, 0.0),
            f"{self.name}/error": Term(count - right, count, 0.0),
        }

    def answers(self, nets: Nets, batch: Batch) -> Int[Array, "B 1"]:
        """The token of the likeliest class of each row."""
        return class_token(jnp.argmax(self.logits(nets, batch), axis=1), self.tokens)[:, None]

    def targets(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> dict[str, Targets]:
        """The class behind each text."""
        rows = batch["tokens"]
        last = jnp.arange(rows.shape[1])[None, :] == rows.shape[1] - 1
        return {self.name: Targets(rows, last & (rows > 0))}
