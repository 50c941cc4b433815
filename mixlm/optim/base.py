"""The `Rule` protocol, an update rule as a value, and what rules share: the mask of decayed leaves, norms, checks."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from mixlm.errors import UserError
from mixlm.values import check_number

DTYPES = ("float32", "bfloat16")


# The leaf names that flax gives to biases and to the scales of norms.
UNDECAYED = ("bias", "scale")


@runtime_checkable
class Rule(Protocol):
    """A frozen description of an update rule."""

    def transform(self) -> optax.GradientTransformation:
        """Gradients to the step to add at learning rate 1 (so it points downhill)."""
        ...


def decayed(params: PyTree, undecayed: tuple[str, ...] = UNDECAYED, also_decayed: tuple[str, ...] = ()) -> PyTree:
    """The mask of decayed leaves: matrices are, vectors and the leaves named in `undecayed` are not.

    A leaf that bears a name in `also_decayed`, or lies in a module of that name, is decayed all the same. Rules see one
    layer at a time (`per_layer`), so a stack's layer axis makes no matrix of a vector.
    """

    def leaf(path: tuple[Any, ...], value: Any) -> bool:
        names = [getattr(key, "key", None) for key in path]
        plain = value.ndim >= 2 and (names[-1] if names else None) not in undecayed
        return plain or any(name in also_decayed for name in names)

    return jax.tree_util.tree_map_with_path(leaf, params)


def check_below_one(rule: object, *names: str) -> None:
    """Raises UserError unless these fields of `rule` are numbers in [0, 1): the decay rates of moments."""
    for name in names:
        check_number(rule, name, 0, 1)
        if getattr(rule, name) == 1:
            raise UserError(f"{type(rule).__name__}.{name} = 1 never takes in a gradient; it must be below 1.")


def global_norm(tree: PyTree) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together, summed in float32."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares))) if squares else jnp.zeros((), jnp.float32)
