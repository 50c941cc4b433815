"""Muon: orthogonalised momentum for the matrices of layers, Adam for everything else."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from mixlm.errors import UserError, nearest
from mixlm.optim.base import DTYPES, check_below_one, decayed
from mixlm.schedules import check_steps
from mixlm.values import check_number

# What the release adds to the Frobenius norm, so that a zero gradient stays zero.
NORM_EPSILON = 1e-7


class MuonState(NamedTuple):
    """Per leaf a momentum, and Adam's second moment (one unused zero for a matrix); `updates` counts them, for Adam."""

    updates: Int[Array, ""]
    first: PyTree
    second: PyTree


def is_matrix(path: tuple[Any, ...], leaf: Any, excluded: tuple[str, ...]) -> bool:
    """True for leaves that Muon updates: two axes longer than 1, and no name on the path contains a word of `excluded`.

    Further axes in front are layers: each layer's matrix is orthogonalised on its own.
    """
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    return leaf.ndim >= 2 and min(leaf.shape[-2:]) > 1 and not any(word in name for word in excluded for name in names)


def orthogonalised(
    matrix: Float[Array, "*layers D F"],
    steps: int = 5,
    coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
    dtype: str = "float32",
) -> Float[Array, "*layers D F"]:
    """Newton-Schulz: X = G / |G|, then `steps` times X = a X + b A X + c A^2 X with A = X X'.

    For G = U S V' that is close to U V': the singular values end between about 0.7 and 1.2. Jordan's coefficients give
    up the last digits for a steep start at small values.
    """
    a, b, c = coefficients
    norm = jnp.sqrt(jnp.sum(jnp.square(matrix.astype(jnp.float32)), axis=(-2, -1), keepdims=True))
    x = (matrix / (norm + NORM_EPSILON)).astype(dtype)
    # f(X') = f(X)', and the Gram matrix of the shorter side is the smaller one.
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = jnp.swapaxes(x, -2, -1) if tall else x
    for _ in range(steps):
        gram = x @ jnp.swapaxes(x, -2, -1)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (jnp.swapaxes(x, -2, -1) if tall else x).astype(matrix.dtype)


def scale_by_muon(
    momentum: float,
    nesterov: bool,
    steps: int,
    rms: float,
    adam: tuple[float, float, float],
    excluded: tuple[str, ...],
    dtype: str,
) -> optax.GradientTransformation:
    """Gradients to Muon's directions for matrices, Adam's for the rest; uphill, before decay and learning rate.

    Matrices: M = momentum M + G, then rms sqrt(max(rows, columns)) times the orthogonalised G + momentum M (M without
    `nesterov`), so that an entry's root mean square is about `rms` whatever the shape. `adam` is (b1, b2, eps). States
    keep the parameters' tree, which optax's own partition by labels would not.
    """
    b1, b2, eps = adam

    def init(params: PyTree) -> MuonState:
        def second(path: tuple[Any, ...], leaf: Array) -> Array:
            return jnp.zeros(1) if is_matrix(path, leaf, excluded) else jnp.zeros_like(leaf)

        zeros = jax.tree.map(jnp.zeros_like, params)
        return MuonState(jnp.zeros((), jnp.int32), zeros, jax.tree_util.tree_map_with_path(second, params))

    def update(grads: PyTree, state: MuonState, params: PyTree = None) -> tuple[PyTree, MuonState]:
        del params
        updates = state.updates + 1

        def leaf(path: tuple[Any, ...], grad: Array, first: Array, second: Array) -> tuple[Array, Array, Array]:
            if is_matrix(path, grad, excluded):
                first = momentum * first + grad
                ahead = grad + momentum * first if nesterov else first
                scale = rms * math.sqrt(max(grad.shape[-2:]))
                return scale * orthogonalised(ahead, steps, dtype=dtype), first, second
            first, second = b1 * first + (1 - b1) * grad, b2 * second + (1 - b2) * jnp.square(grad)
            corrected = jnp.sqrt(second / (1 - b2**updates)) + eps
            return first / (1 - b1**updates) / corrected, first, second

        found = jax.tree_util.tree_map_with_path(leaf, grads, state.first, state.second)
        directions, firsts, seconds = jax.tree.transpose(
            jax.tree.structure(grads), jax.tree.structure((0, 0, 0)), found
        )
        return directions, MuonState(updates, firsts, seconds)

    return optax.GradientTransformation(init, update)


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
        check_below_one(self, "momentum", "b1", "b2")
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
