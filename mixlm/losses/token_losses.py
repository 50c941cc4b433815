"""Per-token losses: cross-entropy, MiLe and focal, each as (cost, scale) of a block of logits."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mixlm.losses.softmax import normalizer_chosen_entropy
from mixlm.values import check_number


@runtime_checkable
class TokenLoss(Protocol):
    """A token's loss and scale: `total = sum(w * scale * cost)`, `count = sum(counted + w * (scale - 1))`.

    Plain cross-entropy so divides by the count, whatever the weights; where the weights sum to the count, any other
    loss divides by the weighted sum of its scale.
    """

    def __call__(
        self, logits: Float[Array, "*n V"], targets: Int[Array, "*n"]
    ) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """Returns (cost in nats, scale); no gradient flows through the scale."""
        ...


def cross_entropy(logits: Float[Array, "*n V"], targets: Int[Array, "*n"], z_loss: float = 0.0) -> Float[Array, "*n"]:
    """`log Z - logit[target] + z_loss * (log Z)^2`, in nats."""
    log_z, chosen, _ = normalizer_chosen_entropy(logits, targets)
    return _cost(log_z, chosen, z_loss)


def _cost(log_z: Float[Array, "*n"], chosen: Float[Array, "*n"], z_loss: float) -> Float[Array, "*n"]:
    return log_z - chosen + (z_loss * log_z**2 if z_loss else 0.0)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy with T5X's z-loss, `-log p(target) + z_loss * (log Z)^2`."""

    z_loss: float = 0.0

    def __post_init__(self) -> None:
        check_number(self, "z_loss", 0)

    def __call__(
        self, logits: Float[Array, "*n V"], targets: Int[Array, "*n"]
    ) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """Returns (cost, ones)."""
        cost = cross_entropy(logits, targets, self.z_loss)
        return cost, jnp.ones_like(cost)


@dataclass(frozen=True)
class _Scaled:
    """Cross-entropy scaled by `d^gamma / mean(d^gamma)`, where d is a token's difficulty; its gradient is not taken."""

    traced: ClassVar[tuple[str, ...]] = ("gamma",)
    gamma: float = 1.0
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        check_number(self, "gamma", 0)
        check_number(self, "z_loss", 0)

    def __call__(
        self, logits: Float[Array, "*n V"], targets: Int[Array, "*n"]
    ) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """Returns (cost in nats, d^gamma)."""
        log_z, chosen, entropy = normalizer_chosen_entropy(logits, targets)
        difficulty = self._difficulty(jax.lax.stop_gradient(log_z - chosen), jax.lax.stop_gradient(entropy))
        return _cost(log_z, chosen, self.z_loss), difficulty**self.gamma

    def _difficulty(self, surprisal: Float[Array, "*n"], entropy: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """d, from -log p(target) and the entropy of the prediction, both in nats."""
        raise NotImplementedError


@dataclass(frozen=True)
class MiLe(_Scaled):
    """MiLe loss (arXiv 2310.19531): cross-entropy scaled by `(1 + H)^gamma / mean((1 + H)^gamma)`.

    H is the entropy of the prediction in nats; no gradient flows through the scale (as in the released code). The mean
    runs over the whole batch, where the released code averages the reciprocals of each device's mean. gamma = 0 is
    cross-entropy; 1.0 is the released default.
    """

    def _difficulty(self, surprisal: Float[Array, "*n"], entropy: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return 1 + entropy


@dataclass(frozen=True)
class Focal(_Scaled):
    """The focal baseline of the MiLe release: cross-entropy scaled by `(1 - p)^gamma / mean((1 - p)^gamma)`.

    p is the probability of the target; no gradient flows through the scale, unlike in the original focal loss.
    """

    def _difficulty(self, surprisal: Float[Array, "*n"], entropy: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.maximum(-jnp.expm1(-surprisal), 0.0)
