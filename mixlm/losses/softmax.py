"""log Z, target logit and entropy of a softmax over the vocabulary, in as few passes over the logits as possible."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mixlm.parallel.logical_axes import platform


@jax.custom_vjp
def normalizer_chosen_entropy(
    logits: Float[Array, "*n V"], targets: Int[Array, "*n"]
) -> tuple[Float[Array, "*n"], Float[Array, "*n"], Float[Array, "*n"]]:
    """(log Z, logit[target], entropy in nats); no gradient flows through the entropy.

    The gradient is `g_log_z * softmax + g_chosen * onehot`, in one pass over the logits.
    """
    return _forward(logits, targets)[0]


def _forward(logits, targets):
    largest = jnp.max(logits, axis=-1)
    powers = jnp.exp(logits - largest[..., None])
    total = jnp.sum(powers, axis=-1)
    log_z, chosen = jnp.log(total) + largest, at(logits, targets)
    # XLA would write the differences for both of their readers, where each can make them while it reads the logits.
    apart = logits - jax.lax.optimization_barrier(largest)[..., None]
    entropy = jnp.log(total) - jnp.sum(powers * apart, axis=-1) / total
    # Reading the powers costs a CPU less than making them again.
    return (log_z, chosen, entropy), (targets, *((powers, total) if platform() == "cpu" else (logits, log_z)))


def _backward(kept, given):
    targets, *of_softmax = kept
    of_log_z, of_chosen, _ = given
    places = jax.lax.broadcasted_iota(targets.dtype, of_softmax[0].shape, targets.ndim)
    onehot = jnp.where(places == targets[..., None], of_chosen[..., None], 0.0)
    if platform() == "cpu":
        powers, total = of_softmax
        return powers * (of_log_z / total)[..., None] + onehot, None
    logits, log_z = of_softmax
    return of_log_z[..., None] * jnp.exp(logits - log_z[..., None]) + onehot, None


normalizer_chosen_entropy.defvjp(_forward, _backward)


def at(logits: Float[Array, "*n V"], targets: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """The targets' logits."""
    return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def is_first_largest(logits: Float[Array, "*n V"], targets: Int[Array, "*n"]) -> Bool[Array, "*n"]:
    """`argmax(logits) == targets` without the argmax, which a CPU takes one number at a time."""
    chosen = at(logits, targets)
    places = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    before = jnp.max(jnp.where(places < targets[..., None], logits, -jnp.inf), axis=-1)
    return (chosen > before) & (chosen >= jnp.max(logits, axis=-1))
