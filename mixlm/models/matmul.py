"""Products of activations with parameters, with the gradient in the order that is fast on every platform."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mixlm.parallel.logical_axes import platform

# Ours, measured on a CPU: a matrix of so many columns is fast when its gradient's left factor lies transposed.
WIDE = 4096


@jax.custom_vjp
def product(x: Float[Array, "*any D"], kernel: Float[Array, "D F"]) -> Float[Array, "*any F"]:
    """`x @ kernel`, whose gradient for the kernel is `x' g`.

    JAX's own is `(g' x)'`: a CPU then transposes the wider of the two, and the result once more.
    """
    return jnp.dot(x, kernel)


def _forward(x, kernel):
    return jnp.dot(x, kernel), (x, kernel)  # in the open, for policies of jax.checkpoint


def _backward(kept, given):
    x, kernel = kept
    return jnp.dot(given, kernel.T), of_kernel(x, given)


def of_kernel(x: Float[Array, "*any D"], given: Float[Array, "*any F"]) -> Float[Array, "D F"]:
    """The gradient `x' g` of `product` for the kernel."""
    rows, given = x.reshape(-1, x.shape[-1]), given.reshape(-1, given.shape[-1])
    if platform() == "cpu" and given.shape[-1] >= WIDE:
        # XLA would put the transposition back into the product.
        return jax.lax.optimization_barrier(rows.T) @ given
    return jnp.einsum("nd,nf->df", rows, given)


product.defvjp(_forward, _backward)


@jax.custom_vjp
def settled(*branches: Float[Array, "*any F"]) -> tuple[Float[Array, "*any F"], ...]:
    """The same arrays, whose gradients are made once and together.

    A TPU would else make those of a gated MLP's branches where they are used, each time from more arrays than one.
    """
    return branches


def _settled_forward(*branches):
    return branches, None


def _settled_backward(_, given):
    return jax.lax.optimization_barrier(given) if platform() == "tpu" else given


settled.defvjp(_settled_forward, _settled_backward)
