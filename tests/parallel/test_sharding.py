"""One run on one device and on every mesh of eight: the same corruption, the same losses, the same parameters."""

from functools import cache

import jax
import numpy as np
import pytest
from support.steps import (
    BATCHES,
    LENGTH,
    ONE,
    OPTIMIZER,
    ROWS,
    SPACTOR,
    SPANS,
    TOKENS,
    assert_trees_close,
    first,
    five_steps,
    jitted,
    placed,
)
from support.xla import COMPILE_QUICKLY

from mixlm.models.heads import TokenHead
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.parallel.mesh import Partitioning, batch_sharding, replicated
from mixlm.perf.flops import matmul_flops
from mixlm.rng import row_keys
from mixlm.training.initial_state import initial_state
from mixlm.training.step import TrainStep

SIZES = {"vocab_size": TOKENS.vocab_size, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}
MODULES = (
    ("generator", DecoderOnly(**SIZES, num_layers=1, logits_via_embedding=True)),
    ("model", EncoderDecoder(**SIZES, num_encoder_layers=1, num_decoder_layers=1)),
    ("rtd_head", TokenHead(16)),
)
MESHES = {
    "data 8": Partitioning(data=8),
    "fsdp 8": Partitioning(data=1, fsdp=8),
    "data 4, tensor 2": Partitioning(data=4, tensor=2),
    "data 2, fsdp 2, tensor 2": Partitioning(data=2, fsdp=2, tensor=2),
}


@cache
def mesh_of(name: str):
    return MESHES[name].mesh()


@cache
def corrupted(mesh):
    """What SpacTor makes of a batch before any network is asked, on the host."""
    made = jax.jit(lambda batch, seed: SPACTOR.mask(row_keys(seed, 3, ROWS), batch), compiler_options=COMPILE_QUICKLY)
    return jax.device_get(jax.tree.leaves(made(*placed(mesh, BATCHES[0]))))


@pytest.mark.parametrize("name", MESHES)
def test_every_device_count_corrupts_alike(name):
    assert len(corrupted(ONE)) == 8
    jax.tree.map(np.testing.assert_array_equal, corrupted(mesh_of(name)), corrupted(ONE))


@pytest.mark.slow  # test_meshes trains ten steps of a recipe on a mesh in the quick tier
@pytest.mark.parametrize("name", ["fsdp 8", "data 2, fsdp 2, tensor 2"])
def test_five_steps_on_a_mesh_are_five_steps_on_one_device(name):
    wanted_state, wanted = five_steps(SPACTOR, 1, ONE, MODULES)
    state, figures = five_steps(SPACTOR, 1, mesh_of(name), MODULES)
    assert_trees_close(figures, wanted)
    assert_trees_close(state.params, wanted_state.params)


def test_microbatches_on_a_mesh_change_nothing():
    mesh = Partitioning(data=2, tensor=2).mesh(jax.devices()[:4])
    wanted_state, wanted = five_steps(SPANS)
    state, figures = five_steps(SPANS, 4, mesh)
    assert_trees_close(figures, wanted)
    assert_trees_close(state.params, wanted_state.params)


def share_per_device(tree) -> float:
    """The largest share of the tree's bytes that any one device holds."""
    held, leaves = {}, jax.tree.leaves(tree)
    for leaf in leaves:
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values()) / sum(leaf.nbytes for leaf in leaves)


@pytest.mark.slow
@pytest.mark.parametrize(
    # Of the parameters, the relative biases are not on fsdp's axis, and the norms not on tensor's.
    ("name", "at_most"),
    [
        pytest.param("fsdp 8", 0.15, marks=pytest.mark.slow),
        pytest.param("data 4, tensor 2", 0.51, marks=pytest.mark.slow),
        ("data 2, fsdp 2, tensor 2", 0.27),
    ],
)
def test_a_device_holds_its_share_of_parameters_and_moments(name, at_most):
    state, _ = five_steps(SPACTOR, 1, mesh_of(name), MODULES)
    assert share_per_device(state.params) <= at_most
    assert share_per_device(state.opt_state) <= at_most


def test_data_parallel_devices_hold_everything():
    assert share_per_device(five_steps(SPACTOR, 1, mesh_of("data 8"))[0].params) == 1


def test_the_first_state_is_made_where_it_lies_and_does_not_depend_on_that():
    state = jitted(1, mesh_of("data 2, fsdp 2, tensor 2"), MODULES)[0]()
    assert share_per_device(state.params) <= 0.27
    assert_trees_close(state.params, first(MODULES).params, rtol=1e-6, atol=1e-7)


def traced(objective, modules, microbatches=1):
    """A step over a state of these networks, on one device."""
    _, shapes = initial_state(dict(modules), OPTIMIZER, 0, ONE)
    rows = jax.ShapeDtypeStruct((ROWS, LENGTH), np.int32, sharding=batch_sharding(ONE))
    seed = jax.ShapeDtypeStruct((), np.int32, sharding=replicated(ONE))
    # Donated as in a run: without it XLA would copy what the stage does not touch.
    step = jax.jit(
        TrainStep(modules, OPTIMIZER, microbatches).__call__,
        static_argnums=3,
        donate_argnums=0,
        compiler_options=COMPILE_QUICKLY,
    )
    return step.trace(shapes, {"tokens": rows}, seed, objective)


@pytest.mark.slow
def test_stage_two_pays_nothing_for_the_generator_and_the_head():
    within, alone, hybrid = (
        traced(SPANS, MODULES),
        traced(SPANS, tuple(pair for pair in MODULES if pair[0] == "model")),
        traced(SPACTOR, MODULES),
    )
    products = [matmul_flops(step.jaxpr) for step in (within, alone, hybrid)]
    assert products[0] == products[1] < products[2]
    compiled = [step.lower().compile().cost_analysis()["flops"] for step in (within, alone, hybrid)]
    assert compiled[0] == pytest.approx(compiled[1], rel=1e-3)
    assert compiled[2] > 1.3 * compiled[0]


def test_microbatches_cost_no_further_products():
    whole, parts = (matmul_flops(traced(SPANS, MODULES, microbatches).jaxpr) for microbatches in (1, 4))
    assert whole == parts
