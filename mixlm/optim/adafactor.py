"""Adafactor as T5 uses it."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from mixlm.optim.base import UNDECAYED, decayed
from mixlm.values import check_number

# Adafactor's epsilon_2: a parameter's RMS counts as at least this.
SMALLEST_SCALE = 1e-3


@dataclass(frozen=True)
class Adafactor:
    """Adafactor without momentum (Shazeer & Stern 2018, algorithms 4 and 5), as T5 uses it.

    Per leaf, with beta_t = 1 - t^-decay_rate: V = beta_t V + (1 - beta_t) (G^2 + 1e-30), kept as its row and column
    means where two axes have at least `min_dim_size_to_factor` entries; U = G / sqrt(V), divided by
    max(1, RMS(U) / clipping_threshold); times max(1e-3, RMS(param)) with `multiply_by_parameter_scale`. t counts the
    updates of this network. `weight_decay * param` is added to U for the leaves that `decayed` names, so the
    learning rate multiplies the decay too (optax.adafactor with its own learning rate leaves it out).
    """

    decay_rate: float = 0.8
    clipping_threshold: float | None = 1.0
    multiply_by_parameter_scale: bool = True
    min_dim_size_to_factor: int = 128
    weight_decay: float = 0.0
    undecayed: tuple[str, ...] = UNDECAYED

    def __post_init__(self) -> None:
        object.__setattr__(self, "undecayed", tuple(self.undecayed))
        check_number(self, "decay_rate", 0, 1)
        if self.clipping_threshold is not None:
            check_number(self, "clipping_threshold", 1)
        check_number(self, "min_dim_size_to_factor", 1)
        check_number(self, "weight_decay", 0)

    def transform(self) -> optax.GradientTransformation:
        """Gradients to the step to add at learning rate 1."""
        parts = [optax.scale_by_factored_rms(True, self.decay_rate, 0, self.min_dim_size_to_factor)]
        if self.clipping_threshold is not None:
            parts.append(optax.clip_by_block_rms(self.clipping_threshold))
        if self.multiply_by_parameter_scale:
            # optax's scale_by_param_block_rms reads every parameter twice, for a gradient that is never taken.
            parts.append(optax.stateless(_by_parameter_scale))
        if self.weight_decay:
            mask = partial(decayed, undecayed=self.undecayed)
            parts.append(optax.add_decayed_weights(self.weight_decay, mask))
        return optax.chain(*parts, optax.scale(-1.0))


def _by_parameter_scale(updates: PyTree, params: PyTree) -> PyTree:
    def leaf(update: Array, param: Array) -> Array:
        return update * jnp.maximum(SMALLEST_SCALE, jnp.sqrt(jnp.mean(jnp.square(param))))

    return jax.tree.map(leaf, updates, params)
