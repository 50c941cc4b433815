"""The optimizer: clipping, decay, states per network, learning rate, and refused values."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from support.numpy_optim import some_tree

from mixlm.errors import UserError
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.base import decayed, global_norm
from mixlm.optim.lamb import LAMB
from mixlm.optim.muon import Muon
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.schedules import Constant, Linear, RsqrtDecay
from mixlm.training.initial_state import initial_state


@pytest.mark.parametrize("rule", [Muon(), Muon(decay_vectors=False), LAMB()])
def test_moments_are_sharded_as_parameters(rule):
    network = DecoderOnly(vocab_size=64, emb_dim=16, num_heads=4, head_dim=8, mlp_dim=32, num_layers=1)
    mesh = Partitioning(data=2, fsdp=2, tensor=2).mesh()
    create, shapes = initial_state({"model": network}, Optimizer(rule, Constant(0.1)), 0, mesh)
    state = create()
    placed = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state.params["model"])}
    cut = 0
    for path, leaf in jax.tree.leaves_with_path(state.opt_state["model"]):
        owners = [param for name, param in placed.items() if jax.tree_util.keystr(path).endswith(name)]
        if owners and owners[0].shape == leaf.shape:
            assert leaf.sharding == owners[0].sharding
            cut += not leaf.sharding.is_fully_replicated
        else:
            assert leaf.sharding.is_fully_replicated and leaf.size <= 1
    assert cut >= len(placed) // 2
    jax.tree.map(lambda leaf, want: leaf.sharding == want.sharding or pytest.fail(str(want)), state, shapes)


def test_vectors_and_stacked_norm_scales_do_not_decay():
    tree = {
        "layers": {
            "norm": {"scale": jnp.ones((12, 64))},
            "mlp": {"kernel": jnp.ones((12, 64, 256)), "bias": jnp.ones((12, 256))},
        },
        "final": {"kernel": jnp.ones(3), "embedding": jnp.ones((10, 4))},
    }
    assert decayed(tree) == {
        "layers": {"norm": {"scale": False}, "mlp": {"kernel": True, "bias": False}},
        "final": {"kernel": False, "embedding": True},
    }
    assert decayed(tree, ("embedding",))["final"] == {"kernel": False, "embedding": False}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_clipping_bounds_the_norm_and_keeps_the_direction(scale):
    class Plain:
        def transform(self):
            return optax.scale(-1.0)

    params = {"model": some_tree(0), "generator": some_tree(1)}
    grads = {"model": some_tree(2, scale), "generator": some_tree(3, scale)}
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)]).astype(np.float64)
    norm = np.linalg.norm(flat)
    optimizer = Optimizer(Plain(), Constant(1.0), clip_norm=2.0)
    new, _, stats = optimizer.update(grads, optimizer.init(params), params, 0)
    np.testing.assert_allclose(stats["grad_norm"], norm, rtol=1e-5)
    moved = jax.tree.map(lambda before, after: before - after, params, new)
    moved = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moved)])
    np.testing.assert_allclose(moved, flat * min(1.0, 2.0 / norm), atol=1e-5)


def test_the_global_norm_of_zeros_and_of_nothing():
    assert global_norm({"a": jnp.zeros((3, 2))}) == 0.0
    assert global_norm({}) == 0.0
    optimizer = Optimizer(AdamW(weight_decay=0.0), Constant(1.0))
    params = {"model": {"kernel": jnp.ones((2, 2))}}
    new, _, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params, 0)
    np.testing.assert_array_equal(new["model"]["kernel"], 1.0)


@pytest.mark.parametrize("rule", [Adafactor(), AdamW(), Muon(), LAMB()])
def test_a_network_without_gradients_is_left_alone(rule):
    optimizer = Optimizer(rule, RsqrtDecay(1.0, 10))
    params = {"model": some_tree(0), "generator": some_tree(1)}
    state = optimizer.init(params)
    assert set(state) == set(params)
    # A first step on both, so that the idle state is not all zeros.
    params, state, _ = optimizer.update({"model": some_tree(2), "generator": some_tree(3)}, state, params, 0)
    new_params, new_state, _ = jax.jit(optimizer.update)({"model": some_tree(4)}, state, params, jnp.int32(1))
    for before, after in ((params, new_params), (state, new_state)):
        assert jax.tree.structure(before) == jax.tree.structure(after)
        jax.tree.map(np.testing.assert_array_equal, before["generator"], after["generator"])
        assert not all(
            np.array_equal(left, right)
            for left, right in zip(jax.tree.leaves(before["model"]), jax.tree.leaves(after["model"]), strict=True)
        )


def test_the_learning_rate_depends_on_the_step_alone():
    optimizer = Optimizer(AdamW(weight_decay=0.0), Linear(0.0, 1.0, 100), clip_norm=None)
    params, grads = {"model": {"kernel": jnp.zeros((1, 1))}}, {"model": {"kernel": jnp.ones((1, 1))}}
    state = optimizer.init(params)
    for step in (70, 70, 20):
        new, state, stats = optimizer.update(grads, state, params, step)
        # Adam's direction is 1 for a constant gradient.
        np.testing.assert_allclose(new["model"]["kernel"], -step / 100, rtol=1e-5)
        np.testing.assert_allclose(stats["learning_rate"], step / 100, rtol=1e-6)


def test_an_optimizer_is_static_under_jit():
    assert hash(Optimizer(Adafactor(), RsqrtDecay())) == hash(Optimizer(Adafactor(), RsqrtDecay()))
    assert Optimizer(AdamW(), Constant(1.0)) != Optimizer(AdamW(b2=0.99), Constant(1.0))
    assert hash(AdamW(undecayed=("bias",))) == hash(AdamW(undecayed=("bias",)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: AdamW(b1=1.0), "AdamW.b1 = 1 never takes in"),
        (lambda: AdamW(b2=-0.1), "AdamW.b2 = -0.1 must be between 0 and 1."),
        (lambda: AdamW(weight_decay=-1.0), "AdamW.weight_decay = -1.0 must be at least 0."),
        (lambda: Muon(momentum=1.0), "Muon.momentum = 1 never takes in"),
        (lambda: Muon(ns_steps=0), "Muon.ns_steps = 0 must be at least 1."),
        (lambda: Muon(ns_dtype="bfloat"), "must be 'float32' or 'bfloat16'. Did you mean 'bfloat16'?"),
        (lambda: LAMB(b2=1.0), "LAMB.b2 = 1 never takes in"),
        (lambda: LAMB(max_trust_ratio=-1.0), "LAMB.max_trust_ratio = -1.0 must be at least 0."),
        (lambda: Adafactor(decay_rate=2.0), "Adafactor.decay_rate = 2.0 must be between 0 and 1."),
        (lambda: Adafactor(clipping_threshold=0.5), "Adafactor.clipping_threshold = 0.5 must be at least 1."),
        (lambda: Optimizer(AdamW(), Constant(1.0), clip_norm=0.0), "None switches clipping off"),
        (lambda: Optimizer(AdamW(), Constant(1.0), clip_norm=-1.0), "Optimizer.clip_norm = -1.0 must be at least 0."),
    ],
)
def test_a_bad_value_gets_one_sentence(build, words):
    with pytest.raises(UserError, match=r"^[^\n]*[.?]$") as error:
        build()
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Optimizer(AdamW(), 0.01), "a constant one is written Constant(0.01)"),
        (lambda: Optimizer("adam", Constant(1.0)), "Optimizer.rule must be a Rule, got a value of type str."),
        (lambda: AdamW(b1="0.9"), "AdamW.b1 = '0.9' must be a finite number."),
        (lambda: Constant(True), "Constant.value = True must be a finite number."),
        (lambda: Linear(0.0, 1.0, 2.5), "Linear.steps = 2.5 must be a whole number of steps."),
    ],
)
def test_a_value_of_the_wrong_type_gets_one_sentence(build, words, monkeypatch):
    # As users run it: without the type checks that the tests switch on.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match=r"^[^\n]*[.]$") as error:
        build()
    assert words in str(error.value)


def test_gradients_of_an_unknown_network_name_the_nearest():
    optimizer = Optimizer(AdamW(), Constant(1.0))
    params = {"generator": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(UserError, match=r"'genrator'.*Did you mean 'generator'"):
        optimizer.update({"genrator": params["generator"]}, optimizer.init(params), params, 0)
