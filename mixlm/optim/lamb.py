"""LAMB: Adam with a trust ratio per leaf, as LTG-BERT and GPT-BERT use it."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from mixlm.optim.base import UNDECAYED, check_below_one, decayed, global_norm
from mixlm.values import added, check_number


@dataclass(frozen=True)
class LAMB:
    """Adam whose step has each leaf's own length (You et al. 2020, algorithm 2), as LTG-BERT and GPT-BERT use it.

    Per leaf: U = m / (sqrt(v) + eps), bias corrected, plus `weight_decay * param` for the leaves that `decayed` names;
    those are then scaled by |param| / |U|, at most `max_trust_ratio`, or 1 where either is 0. The others' step stays
    Adam's as in the releases, unless `adapt_undecayed`, which is the paper's and optax's. The defaults are GPT-BERT's;
    LTG-BERT's release also leaves the embeddings of words and of positions undecayed.
    """

    traced: ClassVar[tuple[str, ...]] = ("weight_decay",)
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.1
    max_trust_ratio: float | None = None
    adapt_undecayed: bool = False
    undecayed: tuple[str, ...] = UNDECAYED
    also_decayed: tuple[str, ...] = added(())

    def __post_init__(self) -> None:
        for name in ("undecayed", "also_decayed"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # gin writes lists
        check_below_one(self, "b1", "b2")
        check_number(self, "eps", 0)
        check_number(self, "weight_decay", 0)
        if self.max_trust_ratio is not None:
            check_number(self, "max_trust_ratio", 0)

    def transform(self) -> optax.GradientTransformation:
        """Gradients to the step to add at learning rate 1."""
        return optax.chain(
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
            optax.add_decayed_weights(self.weight_decay, mask=self._decayed),
            optax.stateless(self._scaled),
            optax.scale(-1.0),
        )

    def _decayed(self, params: PyTree) -> PyTree:
        return decayed(params, self.undecayed, self.also_decayed)

    def _scaled(self, updates: PyTree, params: PyTree) -> PyTree:
        def leaf(update: Array, param: Array, is_decayed: bool) -> Array:
            if not (is_decayed or self.adapt_undecayed):
                return update
            ours, wanted = global_norm(update), global_norm(param)
            ratio = jnp.where((ours > 0) & (wanted > 0), wanted / jnp.where(ours > 0, ours, 1.0), 1.0)
            return update * (ratio if self.max_trust_ratio is None else jnp.minimum(ratio, self.max_trust_ratio))

        return jax.tree.map(leaf, updates, params, self._decayed(params))
