"""Applies an update rule layer by layer, also where a scanned network stacks its layers in one array.

Adafactor's and LAMB's norms, Muon's singular values and the mask of decayed leaves are per layer: over a stack they
would differ, and a scanned network would not train as an unrolled one.
"""

from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from mixlm.parallel.mesh import moment_sharding
from mixlm.params import of_stack, per_layer, stacks, with_stacks, without_stacks


class LayeredState(NamedTuple):
    """Optimizer states: of the leaves outside of stacks, and of every stack by its path, with a leading layer axis."""

    rest: PyTree
    stacks: dict[str, PyTree]


def layer_by_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The rule, vmapped over the layers of a stack; for a tree without stacks it is `transform`, states included."""

    def init(params: PyTree) -> PyTree:
        found = stacks(params)
        if not found:
            return transform.init(params)
        states = {_name(path): jax.vmap(transform.init)(stack) for path, stack in found.items()}
        return LayeredState(transform.init(without_stacks(params)), states)

    def update(grads: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        if not isinstance(state, LayeredState):
            return transform.update(grads, state, params)
        rest, new_rest = transform.update(without_stacks(grads), state.rest, without_stacks(params))
        ways, states, given = {}, {}, stacks(params)
        for path, stack in stacks(grads).items():
            name = _name(path)
            ways[path], states[name] = jax.vmap(transform.update)(stack, state.stacks[name], given[path])
        return with_stacks(rest, ways), LayeredState(new_rest, states)

    return optax.GradientTransformation(init, update)


def state_shardings(
    transform: optax.GradientTransformation, state: PyTree, params: PyTree, shardings: PyTree, whole: NamedSharding
) -> PyTree:
    """Shardings of a state of `layer_by_layer(transform)`: moments by `moment_sharding`, the rest replicated.

    `state` and `params` are abstract.
    """
    if not isinstance(state, LayeredState):
        return _shardings(transform, state, params, shardings, whole)
    found, places = stacks(params), stacks(shardings)
    layered = {}
    for path, stack in found.items():
        layer = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stack)
        placed = jax.tree.map(per_layer, places[path])
        states = _shardings(transform, jax.eval_shape(transform.init, layer), layer, placed, whole)
        layered[_name(path)] = jax.tree.map(of_stack, states)
    rest = _shardings(transform, state.rest, without_stacks(params), without_stacks(shardings), whole)
    return LayeredState(rest, layered)


def _shardings(transform: Any, state: Any, params: Any, shardings: Any, whole: NamedSharding) -> Any:
    return optax.tree_utils.tree_map_params(
        transform,
        moment_sharding,
        state,
        params,
        shardings,
        transform_non_params=lambda _: whole,
    )


def _name(path: tuple[str, ...]) -> str:
    return "/".join(path)
