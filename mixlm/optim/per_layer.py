"""An update rule that sees one layer at a time, also where a network stacks its layers in one array.

Adafactor's and LAMB's lengths, Muon's singular values and what is decayed are those of one layer's arrays: taken over a
whole stack, they would be other numbers, and a scanned network would learn something else.
"""

from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from mixlm.parallel.mesh import moment_sharding
from mixlm.params import of_stack, per_layer, stacks, with_stacks, without_stacks


class LayeredState(NamedTuple):
    """An optimizer's state for what is in no stack, and for every stack, by its path, with the layers in front."""

    rest: PyTree
    stacks: dict[str, PyTree]


def layer_by_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same rule for every layer of a stack; for a tree without stacks it is `transform` itself, states included."""

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
    """Where a state of `layer_by_layer(transform)` lies: moments by `moment_sharding`, the rest on every device.

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
