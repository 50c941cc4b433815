"""Parameter trees, unrolled (`layers_0`, `layers_1`, ... as in T5X) or stacked in one `layers` for scan over layers."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import meta
from jax.sharding import NamedSharding, PartitionSpec

STACK = "layers"
_LAYER = re.compile(rf"{STACK}_(\d+)")


def is_stacked(tree: Any) -> bool:
    """True where any part of the tree has its layers stacked."""
    return isinstance(tree, Mapping) and (STACK in tree or any(is_stacked(part) for part in tree.values()))


def stack_layers(tree: Any) -> Any:
    """The tree with every `layers_0` ... `layers_N` stacked along a new first axis, whose logical name is "layers".

    Leaves are NumPy or JAX arrays, or ShapeDtypeStructs, boxed with logical axes or not.
    """
    if not isinstance(tree, Mapping):
        return tree
    numbers = sorted(int(match[1]) for name in tree if (match := _LAYER.fullmatch(name)))
    rest = {name: stack_layers(part) for name, part in tree.items() if not _LAYER.fullmatch(name)}
    if not numbers:
        return rest
    layers = [tree[f"{STACK}_{number}"] for number in numbers]
    return rest | {STACK: jax.tree.map(lambda *leaves: _stack(leaves), *layers, is_leaf=_is_leaf)}


def unstack_layers(tree: Any) -> Any:
    """The inverse of `stack_layers`: every `layers` split into `layers_0` ... `layers_N`."""
    if not isinstance(tree, Mapping):
        return tree
    rest = {name: unstack_layers(part) for name, part in tree.items() if name != STACK}
    if STACK not in tree:
        return rest
    leaves, treedef = jax.tree.flatten(tree[STACK], is_leaf=_is_leaf)
    return rest | {
        f"{STACK}_{number}": jax.tree.unflatten(treedef, [_take(leaf, number) for leaf in leaves])
        for number in range(depth(tree[STACK]))
    }


def laid_out_as(tree: Any, template: Any) -> Any:
    """The tree in the layout of `template`, stacked or not."""
    if is_stacked(template) == is_stacked(tree):
        return tree
    return stack_layers(tree) if is_stacked(template) else unstack_layers(tree)


def stacks(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The stacked layers of a tree by path, such as ("decoder", "layers")."""
    if not isinstance(tree, Mapping):
        return {}
    found: dict[tuple[str, ...], Any] = {}
    for name, part in tree.items():
        inner = {(*path, name): part} if name == STACK else stacks(part, (*path, name))
        found |= inner
    return found


def without_stacks(tree: Any) -> Any:
    """The tree without its stacked layers."""
    if not isinstance(tree, Mapping):
        return tree
    return {name: without_stacks(part) for name, part in tree.items() if name != STACK}


def with_stacks(rest: Any, found: Mapping[tuple[str, ...], Any]) -> Any:
    """The inverse of `without_stacks` and `stacks`."""
    if not isinstance(rest, Mapping):
        return rest
    inner = {
        name: with_stacks(part, {path[1:]: stack for path, stack in found.items() if path[0] == name})
        for name, part in rest.items()
    }
    return inner | {path[0]: stack for path, stack in found.items() if len(path) == 1}


def depth(stack: Any) -> int:
    """The number of layers in a stacked part of a tree."""
    leaf = jax.tree.leaves(stack, is_leaf=_is_leaf)[0]
    return int((leaf.unbox() if isinstance(leaf, meta.AxisMetadata) else leaf).shape[0])


def per_layer(sharding: NamedSharding) -> NamedSharding:
    """The sharding of one layer of a stack with this sharding."""
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


def of_stack(sharding: NamedSharding) -> NamedSharding:
    """The sharding of a stack of layers with this sharding; the layer axis is not sharded."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def _is_leaf(value: Any) -> bool:
    return isinstance(value, meta.AxisMetadata | jax.ShapeDtypeStruct)


def _stack(leaves: tuple[Any, ...]) -> Any:
    first = leaves[0]
    if isinstance(first, nn.Partitioned):
        return first.replace(value=_stack(tuple(leaf.value for leaf in leaves)), names=(STACK, *first.names))
    if isinstance(first, jax.ShapeDtypeStruct):
        return _shape(first, (len(leaves), *first.shape), of_stack)
    return np.stack(leaves) if isinstance(first, np.ndarray) else jnp.stack(leaves)


def _take(leaf: Any, number: int) -> Any:
    if isinstance(leaf, nn.Partitioned):
        return leaf.replace(value=_take(leaf.value, number), names=leaf.names[1:])
    return _shape(leaf, leaf.shape[1:], per_layer) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf[number]


def _shape(leaf: jax.ShapeDtypeStruct, shape: tuple[int, ...], placed: Callable[..., Any]) -> jax.ShapeDtypeStruct:
    sharding = placed(leaf.sharding) if isinstance(leaf.sharding, NamedSharding) else None
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)
