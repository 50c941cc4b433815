"""The one train step: corrupt, predict, add up the terms, descend. Jitted, donated, sharded over a mesh."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from mixlm.losses.terms import Term, weighted_sum
from mixlm.network import bind
from mixlm.objectives.base import Objective, batch_columns
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import pinned_gradients
from mixlm.perf.accounting import OPTIMIZER
from mixlm.rng import dropout_key, microbatch_key, row_keys

Metrics = dict[str, Float[Array, ""]]


class TrainState(struct.PyTreeNode):
    """The step, and each network's parameters and optimizer state; keys are derived from the step, so none is kept."""

    step: Any  # Int[Array, ""], or its shape or its sharding
    params: dict[str, Any]
    opt_state: dict[str, Any]


@dataclass(frozen=True)
class TrainStep:
    """`step(state, batch, seed, objective)`: one update, the objective a static argument.

    Microbatches are exact: each term is its total over all of them divided by its count over all of them. The counts
    come from a first pass in which XLA drops all that they do not need: the networks too, unless the loss has a scale
    of its own (MiLe, focal). Dropout noise alone differs with the number of microbatches.
    """

    modules: tuple[tuple[str, nn.Module], ...]
    optimizer: Optimizer
    microbatches: int = 1

    def __call__(
        self, state: TrainState, batch: Mapping[str, Int[Array, "B ..."]], seed: Int[Array, ""], objective: Objective
    ) -> tuple[TrainState, Metrics]:
        """Returns the state after the update and the metrics: loss, each term's mean, learning rate, gradient norm.

        Of each term also `TERM/tokens`, the positions that it supervised, and `TERM/mass`, their loss weights' sum.
        """
        # 1. Noise: a key for every row, and what the rows of the whole batch share out, before they are split.
        modules = dict(self.modules)
        trained = {name: state.params[name] for name in objective.networks}
        rows = next(iter(batch.values())).shape[0]
        keys = row_keys(seed, state.step, rows)
        batch = dict(batch) | batch_columns(objective, keys, state.step)
        dropout = dropout_key(seed, state.step, rows)

        # 2. Corrupt, predict, score: the objective makes examples, calls the networks and returns loss terms.
        def terms(params, index, part, part_keys):
            nets = bind(modules, params, microbatch_key(dropout, index))
            return objective(nets, part, part_keys, state.step)

        gradients, sums = self._gradients(terms, trained, batch, keys)
        # 3. Descend: gradients are sharded as the parameters are, then the optimizer updates all networks at once.
        gradients = pinned_gradients(modules, gradients)
        with jax.named_scope(OPTIMIZER):
            params, opt_state, figures = self.optimizer.update(gradients, state.opt_state, state.params, state.step)
        # 4. Metrics, which stay on the device until the loop fetches them.
        metrics = {name: term.figure for name, term in sums.items()} | figures | {"loss": weighted_sum(sums)}
        for name, term in sums.items():
            if "/" not in name:
                metrics[f"{name}/tokens"], metrics[f"{name}/mass"] = term.supervised
        return TrainState(state.step + 1, params, opt_state), metrics

    def _gradients(self, terms, params, batch, keys):
        if self.microbatches == 1:

            def loss(params):
                found = terms(params, 0, batch, keys)
                return weighted_sum(found), found

            return jax.grad(loss, has_aux=True)(params)
        parts = jax.tree.map(self._split, (dict(batch), keys))  # leaves [microbatches, B / microbatches, ...]
        index = jnp.arange(self.microbatches)

        def count(carry, part):
            found = terms(params, part[0], *part[1])
            return carry, {name: term.count for name, term in found.items()}

        # First pass: every term's count over the whole batch, by which each microbatch divides its totals.
        counts = jax.tree.map(jnp.sum, jax.lax.scan(count, None, (index, parts))[1])
        rows = keys.shape[0] // self.microbatches
        whole = {f"count/{name}": jnp.broadcast_to(number, rows) for name, number in counts.items()}

        def descend(carry, part):
            index, (batch, keys) = part

            def loss(params):
                found = terms(params, index, batch | whole, keys)
                shares = {name: Term(term.total, counts[name], term.weight) for name, term in found.items()}
                return weighted_sum(shares), found

            gradients, found = jax.grad(loss, has_aux=True)(params)
            sums = {name: (term.total, term.count, term.weight, *term.supervised) for name, term in found.items()}
            return jax.tree.map(jnp.add, carry, gradients), sums

        # Second pass: gradients add up in the carry; the terms come out stacked, one entry a microbatch.
        gradients, found = jax.lax.scan(descend, jax.tree.map(jnp.zeros_like, params), (index, parts))
        return gradients, {
            name: Term(jnp.sum(total), jnp.sum(count), weight[0], jnp.sum(tokens), jnp.sum(mass))
            for name, (total, count, weight, tokens, mass) in found.items()
        }

    def _split(self, rows):
        """[B, ...] -> [microbatches, B / microbatches, ...], each with rows of every device."""
        return jnp.swapaxes(rows.reshape(-1, self.microbatches, *rows.shape[1:]), 0, 1)
