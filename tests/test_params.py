"""Stacked and unrolled layers are two layouts of the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from mixlm.parallel.mesh import Partitioning
from mixlm.params import (
    depth,
    is_stacked,
    laid_out_as,
    stack_layers,
    stacks,
    unstack_layers,
    with_stacks,
    without_stacks,
)


def tree(counts: dict[str, int], seed: int = 0) -> dict:
    """A network with a stack of so many layers in each of these parts."""
    rng = np.random.default_rng(seed)

    def layer():
        return {"mlp": {"kernel": rng.normal(size=(3, 5))}, "norm": {"scale": rng.normal(size=4)}}

    parts = {
        part: {"final_norm": rng.normal(size=4)} | {f"layers_{i}": layer() for i in range(count)}
        for part, count in counts.items()
    }
    return {"embedder": {"embedding": rng.normal(size=(7, 3))}} | parts


def equal(first, second) -> bool:
    same = jax.tree.structure(first) == jax.tree.structure(second)
    return same and all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)))


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.sampled_from(["encoder", "decoder", "other"]), st.integers(1, 12)))
def test_unstack_layers_inverts_stack_layers(counts):
    layered = tree(counts)
    stacked = stack_layers(layered)
    assert is_stacked(stacked) == bool(counts) and not is_stacked(layered)
    for part, count in counts.items():
        # Layer 10 comes after layer 9, not after layer 1.
        for index in range(count):
            for leaf in (("mlp", "kernel"), ("norm", "scale")):
                ours = stacked[part]["layers"][leaf[0]][leaf[1]][index]
                np.testing.assert_array_equal(ours, layered[part][f"layers_{index}"][leaf[0]][leaf[1]])
        assert depth(stacked[part]["layers"]) == count
        assert list(stacked[part]) == ["final_norm", "layers"]
    assert equal(unstack_layers(stacked), layered)
    assert equal(laid_out_as(stacked, layered), layered) and equal(laid_out_as(layered, stacked), stacked)
    assert equal(laid_out_as(layered, layered), layered) and equal(laid_out_as(stacked, stacked), stacked)


def test_with_stacks_inverts_without_stacks_and_stacks():
    stacked = stack_layers(tree({"encoder": 2, "decoder": 3}))
    found, rest = stacks(stacked), without_stacks(stacked)
    assert set(found) == {("encoder", "layers"), ("decoder", "layers")}
    assert not is_stacked(rest) and set(rest) == {"embedder", "encoder", "decoder"}
    assert equal(with_stacks(rest, found), stacked)
    alone = stack_layers({"layers_0": {"k": np.ones(2)}, "norm": np.ones(3)})
    assert set(stacks(alone)) == {("layers",)} and equal(with_stacks(without_stacks(alone), stacks(alone)), alone)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_stacking_keeps_the_array_type(kind):
    layered = jax.tree.map(kind, tree({"encoder": 2}))
    assert {type(leaf) for leaf in jax.tree.leaves(stack_layers(layered))} == {type(kind(0.0 * np.ones(1)))}


def test_the_layer_axis_is_not_sharded():
    mesh = Partitioning(fsdp=2, tensor=4).mesh()
    boxed = {f"layers_{i}": {"kernel": nn.LogicallyPartitioned(jnp.ones((4, 8)), ("embed", "mlp"))} for i in range(3)}
    stacked = stack_layers(boxed)["layers"]["kernel"]
    assert stacked.names == ("layers", "embed", "mlp") and stacked.value.shape == (3, 4, 8)
    assert unstack_layers({"layers": {"kernel": stacked}})["layers_1"]["kernel"].names == ("embed", "mlp")
    place = jax.sharding.NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    shapes = {f"layers_{i}": jax.ShapeDtypeStruct((4, 8), jnp.bfloat16, sharding=place) for i in range(3)}
    shape = stack_layers(shapes)["layers"]
    assert shape.shape == (3, 4, 8) and shape.dtype == jnp.bfloat16
    assert shape.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    assert unstack_layers(stack_layers(shapes)) == shapes
