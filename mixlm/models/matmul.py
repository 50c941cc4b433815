"""Matrix products of activations with parameters, with gradients in the order that is fast on each platform."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mixlm.parallel.logical_axes import platform

# Ours, measured on a CPU: from this many columns on, the gradient is faster with its left factor transposed in memory.
WIDE = 4096


@jax.custom_vjp
def matmul(x: Float[Array, "*any D"], kernel: Float[Array, "D F"]) -> Float[Array, "*any F"]:
    """`x @ kernel`, whose gradient for the kernel is `x' g`.

    JAX's own is `(g' x)'`: a CPU then transposes the wider of the two, and the result once more.
    """
    return jnp.dot(x, kernel)


def _forward(x, kernel):
    return jnp.dot(x, kernel), (x, kernel)  # visible to policies of jax.checkpoint


def _backward(kept, given):
    x, kernel = kept
    return jnp.dot(given, kernel.T), kernel_gradient(x, given)


def kernel_gradient(x: Float[Array, "*any D"], given: Float[Array, "*any F"]) -> Float[Array, "D F"]:
    """The gradient `x' g` of `matmul` for the kernel."""
    rows, given = x.reshape(-1, x.shape[-1]), given.reshape(-1, given.shape[-1])
    if platform() == "cpu" and given.shape[-1] >= WIDE:
        # Without the barrier XLA folds the transposition into the product again.
        return jax.lax.optimization_barrier(rows.T) @ given
    return jnp.einsum("nd,nf->df", rows, given)


matmul.defvjp(_forward, _backward)


@jax.custom_vjp
def fuse_cotangents(*branches: Float[Array, "*any F"]) -> tuple[Float[Array, "*any F"], ...]:
    """The identity, whose cotangents are computed once and together.

    XLA on a TPU would otherwise recompute those of a gated MLP's branches in each of their consumers.
    """
    return branches


def _fuse_forward(*branches):
    return branches, None


def _fuse_backward(_, given):
    return jax.lax.optimization_barrier(given) if platform() == "tpu" else given


fuse_cotangents.defvjp(_fuse_forward, _fuse_backward)
