"""From gradients to parameters: an update rule, a learning rate that follows the step, clipping; states by network."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from mixlm.errors import UserError, nearest
from mixlm.muon import scale_by_muon
from mixlm.per_layer import layer_by_layer
from mixlm.schedules import Schedule, Step, check_number, check_steps

DTYPES = ("float32", "bfloat16")
# The leaf names that flax gives to biases and to the scales of norms.
UNDECAYED = ("bias", "scale")
# Adafactor's epsilon_2: a parameter's RMS counts as at least this.
SMALLEST_SCALE = 1e-3


@runtime_checkable
class Rule(Protocol):
    """A frozen description of an update rule."""

    def transform(self) -> optax.GradientTransformation:
        """Gradients to the step to add at learning rate 1 (so it points downhill)."""
        ...


def decayed(params: PyTree, undecayed: tuple[str, ...] = UNDECAYED) -> PyTree:
    """Whether each leaf is decayed: matrices are, vectors and the leaves named in `undecayed` are not.

    A rule is only ever given one layer at a time, so that a stack's axis is none of these.
    """

    def leaf(path: tuple[Any, ...], value: Any) -> bool:
        return value.ndim >= 2 and getattr(path[-1] if path else None, "key", None) not in undecayed

    return jax.tree_util.tree_map_with_path(leaf, params)


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
            # optax's own reads every parameter twice, for the sake of a gradient that nobody takes.
            parts.append(optax.stateless(_by_parameter_scale))
        if self.weight_decay:
            mask = partial(decayed, undecayed=self.undecayed)
            parts.append(optax.add_decayed_weights(self.weight_decay, mask))
        return optax.chain(*parts, optax.scale(-1.0))


def _by_parameter_scale(updates: PyTree, params: PyTree) -> PyTree:
    def leaf(update: Array, param: Array) -> Array:
        return update * jnp.maximum(SMALLEST_SCALE, jnp.sqrt(jnp.mean(jnp.square(param))))

    return jax.tree.map(leaf, updates, params)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

    Per leaf: m / (sqrt(v) + eps) with both moments' bias corrected by this network's own number of updates, plus
    `weight_decay * param` for the leaves that `decayed` names; the learning rate multiplies the sum.
    """

    traced: ClassVar[tuple[str, ...]] = ("weight_decay",)
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    undecayed: tuple[str, ...] = UNDECAYED

    def __post_init__(self) -> None:
        object.__setattr__(self, "undecayed", tuple(self.undecayed))
        _check_below_one(self, "b1", "b2")
        check_number(self, "eps", 0)
        check_number(self, "weight_decay", 0)

    def transform(self) -> optax.GradientTransformation:
        """Gradients to the step to add at learning rate 1."""
        return optax.chain(
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
            optax.add_decayed_weights(self.weight_decay, mask=lambda params: decayed(params, self.undecayed)),
            optax.scale(-1.0),
        )


@dataclass(frozen=True)
class Muon:
    """Muon for the matrices inside the layers, AdamW for the rest, with one learning rate (Liu et al. 2025).

    Matrices: M = momentum M + G; `rms` sqrt(max(rows, columns)) times the Newton-Schulz iteration of G + momentum M.
    Leaves whose path has a name that contains one of `excluded` (embeddings, the vocabulary's matrix), norms and biases
    get Adam's direction with (b1, b2, eps). `weight_decay * param` is added to both: to norms and biases as well, as
    the Dual paper's release does, unless `decay_vectors` is False. `ns_dtype` is that of the iteration, bfloat16 in
    the release. Attention's and the gate's matrices are orthogonalised one by one, as separate leaves.
    """

    traced: ClassVar[tuple[str, ...]] = ("weight_decay",)
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    rms: float = 0.2
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay_vectors: bool = True
    excluded: tuple[str, ...] = ("embed", "logits", "bias", "scale")
    ns_dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "excluded", tuple(self.excluded))
        _check_below_one(self, "momentum", "b1", "b2")
        check_steps(self, "ns_steps", low=1)
        for name in ("rms", "eps", "weight_decay"):
            check_number(self, name, 0)
        if self.ns_dtype not in DTYPES:
            close = nearest(str(self.ns_dtype), DTYPES)
            raise UserError(f"Muon.ns_dtype = {self.ns_dtype!r} must be 'float32' or 'bfloat16'.{close}")

    def transform(self) -> optax.GradientTransformation:
        """Gradients to the step to add at learning rate 1."""
        adam = (self.b1, self.b2, self.eps)
        return optax.chain(
            scale_by_muon(self.momentum, self.nesterov, self.ns_steps, self.rms, adam, self.excluded, self.ns_dtype),
            optax.add_decayed_weights(self.weight_decay, mask=None if self.decay_vectors else decayed),
            optax.scale(-1.0),
        )


@dataclass(frozen=True)
class LAMB:
    """Adam whose step has each leaf's own length (You et al. 2020, algorithm 2), as LTG-BERT and GPT-BERT use it.

    Per leaf: U = m / (sqrt(v) + eps), bias corrected, plus `weight_decay * param` for the leaves that `decayed` names;
    those are then scaled by |param| / |U|, at most `max_trust_ratio`, or 1 where either is 0. The others' step stays
    Adam's as in the releases, unless `adapt_undecayed`, which is the paper's and optax's. The defaults are GPT-BERT's.
    """

    traced: ClassVar[tuple[str, ...]] = ("weight_decay",)
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.1
    max_trust_ratio: float | None = None
    adapt_undecayed: bool = False
    undecayed: tuple[str, ...] = UNDECAYED

    def __post_init__(self) -> None:
        object.__setattr__(self, "undecayed", tuple(self.undecayed))
        _check_below_one(self, "b1", "b2")
        check_number(self, "eps", 0)
        check_number(self, "weight_decay", 0)
        if self.max_trust_ratio is not None:
            check_number(self, "max_trust_ratio", 0)

    def transform(self) -> optax.GradientTransformation:
        """Gradients to the step to add at learning rate 1."""
        return optax.chain(
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
            optax.add_decayed_weights(self.weight_decay, mask=lambda params: decayed(params, self.undecayed)),
            optax.stateless(self._scaled),
            optax.scale(-1.0),
        )

    def _scaled(self, updates: PyTree, params: PyTree) -> PyTree:
        def leaf(update: Array, param: Array, is_decayed: bool) -> Array:
            if not (is_decayed or self.adapt_undecayed):
                return update
            ours, wanted = global_norm(update), global_norm(param)
            ratio = jnp.where((ours > 0) & (wanted > 0), wanted / jnp.where(ours > 0, ours, 1.0), 1.0)
            return update * (ratio if self.max_trust_ratio is None else jnp.minimum(ratio, self.max_trust_ratio))

        return jax.tree.map(leaf, updates, params, decayed(params, self.undecayed))


def _check_below_one(rule: object, *names: str) -> None:
    for name in names:
        check_number(rule, name, 0, 1)
        if getattr(rule, name) == 1:
            raise UserError(f"{type(rule).__name__}.{name} = 1 never takes in a gradient; it must be below 1.")


def global_norm(tree: PyTree) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together, summed in float32."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares))) if squares else jnp.zeros((), jnp.float32)


def _apply(param: Float[Array, "..."], direction: Float[Array, "..."], rate: Float[Array, ""]) -> Float[Array, "..."]:
    return param + rate * direction


@dataclass(frozen=True)
class Optimizer:
    """`rule` times `learning_rate`, after clipping the gradients' global norm to `clip_norm` (None: no clipping).

    Every network has its own state, so that a stage which drops a network leaves no trace on it.
    """

    traced: ClassVar[tuple[str, ...]] = ("clip_norm",)
    rule: Rule
    learning_rate: Schedule
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Rule):
            raise UserError(f"Optimizer.rule = {self.rule!r} is no update rule; give one such as AdamW().")
        if not callable(self.learning_rate):
            raise UserError(
                f"Optimizer.learning_rate = {self.learning_rate!r} is no schedule; "
                f"a constant one is written Constant({self.learning_rate!r})."
            )
        if self.clip_norm is not None:
            check_number(self, "clip_norm", 0)
            if self.clip_norm == 0:
                raise UserError("Optimizer.clip_norm = 0 would stop all learning; None switches clipping off.")

    def init(self, params: Mapping[str, PyTree]) -> dict[str, PyTree]:
        """The first state of every network in `params`."""
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
            # The guard keeps 0 / 0 out: all-zero gradients stay zero.
            scale = jnp.minimum(1.0, self.clip_norm / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
            grads = jax.tree.map(lambda leaf: leaf * scale, dict(grads))
        transform, new_params, new_state = layer_by_layer(self.rule.transform()), dict(params), dict(opt_state)
        for name in grads:
            direction, new_state[name] = transform.update(grads[name], opt_state[name], params[name])
            new_params[name] = jax.tree.map(lambda param, way: _apply(param, way, rate), params[name], direction)
        return new_params, new_state, {"learning_rate": rate, "grad_norm": norm}
