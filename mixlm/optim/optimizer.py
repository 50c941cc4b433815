"""The optimizer: an update rule, a learning-rate schedule and gradient clipping, with a state per network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mixlm.errors import UserError, check_kind, nearest
from mixlm.optim.base import Rule, global_norm
from mixlm.optim.per_layer import layer_by_layer
from mixlm.schedules import Schedule, Step
from mixlm.values import check_number


def _apply(param: Float[Array, "..."], direction: Float[Array, "..."], rate: Float[Array, ""]) -> Float[Array, "..."]:
    return param + rate * direction


@dataclass(frozen=True)
class Optimizer:
    """`rule` times `learning_rate`, after clipping the gradients' global norm to `clip_norm` (None: no clipping).

    Every network has its own state, so a stage that does not train a network leaves its state as it is.
    """

    traced: ClassVar[tuple[str, ...]] = ("clip_norm",)
    rule: Rule
    learning_rate: Schedule
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        check_kind("Optimizer.rule", self.rule, Rule)
        if isinstance(self.learning_rate, int | float):
            raise UserError(
                f"Optimizer.learning_rate = {self.learning_rate!r} is no schedule; "
                f"a constant one is written Constant({self.learning_rate!r})."
            )
        check_kind("Optimizer.learning_rate", self.learning_rate, Schedule)
        if self.clip_norm is not None:
            check_number(self, "clip_norm", 0)
            if self.clip_norm == 0:
                raise UserError("Optimizer.clip_norm = 0 would stop all learning; None switches clipping off.")

    def init(self, params: Mapping[str, PyTree]) -> dict[str, PyTree]:
        """The initial state of every network in `params`."""
        transform = layer_by_layer(self.rule.transform())
        return {name: transform.init(tree) for name, tree in params.items()}

    def update(
        self, grads: Mapping[str, PyTree], opt_state: Mapping[str, PyTree], params: Mapping[str, PyTree], step: Step
    ) -> tuple[dict[str, PyTree], dict[str, PyTree], dict[str, Float[Array, ""]]]:
        """One step on the networks that `grads` holds; the others' parameters and states pass through untouched.

        `step` is the train state's and the only clock of the learning rate. Returns the new parameters, the new states
        and {"learning_rate", "grad_norm"}, the norm over the given networks together before clipping.
        Raises UserError for gradients of a network that has no parameters.
        """
        for name in grads:
            if name not in params:
                raise UserError(f"There are gradients for a network {name!r}, which has none.{nearest(name, params)}")
        rate, norm = self.learning_rate(step), global_norm(grads)
        if self.clip_norm is not None:
            # The guard avoids 0 / 0: all-zero gradients stay zero.
            scale = jnp.minimum(1.0, self.clip_norm / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
            grads = jax.tree.map(lambda leaf: leaf * scale, dict(grads))
        transform, new_params, new_state = layer_by_layer(self.rule.transform()), dict(params), dict(opt_state)
        for name in grads:
            direction, new_state[name] = transform.update(grads[name], opt_state[name], params[name])
            new_params[name] = jax.tree.map(lambda param, way: _apply(param, way, rate), params[name], direction)
        return new_params, new_state, {"learning_rate": rate, "grad_norm": norm}
