"""AdamW: Adam with decoupled weight decay."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import optax

from mixlm.optim.base import UNDECAYED, check_below_one, decayed
from mixlm.values import added, check_number


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

    Per leaf: m / (sqrt(v) + eps) with both moments' bias corrected by this network's own number of updates, plus
    `weight_decay * param` for the leaves that `decayed` names; the learning rate multiplies the sum. MiLe's release
    also decays the gain of the last norm: `also_decayed = ("decoder_norm",)`.
    """

    traced: ClassVar[tuple[str, ...]] = ("weight_decay",)
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    undecayed: tuple[str, ...] = UNDECAYED
    also_decayed: tuple[str, ...] = added(())

    def __post_init__(self) -> None:
        for name in ("undecayed", "also_decayed"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # gin writes lists
        check_below_one(self, "b1", "b2")
        check_number(self, "eps", 0)
        check_number(self, "weight_decay", 0)

    def transform(self) -> optax.GradientTransformation:
        """Gradients to the step to add at learning rate 1."""
        mask = partial(decayed, undecayed=self.undecayed, also_decayed=self.also_decayed)
        return optax.chain(
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
            optax.add_decayed_weights(self.weight_decay, mask=mask),
            optax.scale(-1.0),
        )
