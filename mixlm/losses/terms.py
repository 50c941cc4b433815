"""Loss terms as (total, count) pairs, summed over microbatches and devices before dividing."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

Weight = Float[Array, ""] | float


@struct.dataclass
class Term:
    """One part of a loss, `weight * total / count`; microbatches and devices add totals and counts, then divide.

    A weight of 0 marks a figure that is only reported; its name is `TERM/FIGURE`, such as `generator/accuracy`.
    `tokens` counts the positions that the term supervises and `weight_sum` adds up their loss weights, both for usage
    accounting; each defaults to `count`.
    """

    total: Float[Array, ""]
    count: Float[Array, ""]
    weight: Weight = 1.0
    tokens: Float[Array, ""] | None = None
    weight_sum: Float[Array, ""] | None = None

    @property
    def value(self) -> Float[Array, ""]:
        """The mean, 0 where nothing was counted."""
        return self.total / jnp.where(self.count > 0, self.count, 1)

    @property
    def figure(self) -> Float[Array, ""]:
        """The mean, NaN where nothing was counted; logs leave NaN out."""
        return jnp.where(self.count > 0, self.value, jnp.nan)

    def __add__(self, other: "Term") -> "Term":
        ours, theirs = self.supervised, other.supervised
        total, count = self.total + other.total, self.count + other.count
        return Term(total, count, self.weight, ours[0] + theirs[0], ours[1] + theirs[1])

    @property
    def supervised(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(tokens, weight_sum), both `count` where the term does not say."""
        return (
            self.count if self.tokens is None else self.tokens,
            self.count if self.weight_sum is None else self.weight_sum,
        )


def weighted_sum(terms: dict[str, Term]) -> Float[Array, ""]:
    """The training loss: the sum of `weight * total / count`."""
    return sum((term.weight * term.value for term in terms.values()), start=jnp.zeros(()))


def binary_terms(
    name: str, logits: Float[Array, "B S"], labels: Bool[Array, "B S"], counted: Bool[Array, "B S"], weight: Weight
) -> dict[str, Term]:
    """Binary cross-entropy over the counted positions, in nats, and the accuracy over them."""
    cost = jnp.where(labels, jax.nn.softplus(-logits), jax.nn.softplus(logits))
    count = jnp.sum(counted, dtype=jnp.float32)
    right = jnp.sum(((logits > 0) == labels) & counted, dtype=jnp.float32)
    return {name: Term(jnp.sum(cost * counted), count, weight), f"{name}/accuracy": Term(right, count, 0.0)}
