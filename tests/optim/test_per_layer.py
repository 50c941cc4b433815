"""A stack of layers is updated as its layers would be, and its optimizer state is sharded with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mixlm.models.layer_stack import Execution
from mixlm.models.llama import Llama
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.lamb import LAMB
from mixlm.optim.muon import Muon
from mixlm.optim.optimizer import Optimizer
from mixlm.optim.per_layer import LayeredState
from mixlm.parallel.mesh import Partitioning
from mixlm.params import stack_layers, unstack_layers
from mixlm.schedules import Constant
from mixlm.training.initial_state import initial_state

RULES = {
    "adafactor": Adafactor(min_dim_size_to_factor=4, weight_decay=0.1),
    "adamw": AdamW(weight_decay=0.3),
    "muon": Muon(decay_vectors=False, weight_decay=0.3),
    "lamb": LAMB(weight_decay=0.3),
}
SHAPES = {"kernel": (6, 9), "gate": (5, 4), "bias": (8,), "gain": (3,), "scale": (6,)}


def layered(seed: int, scale: float = 1.0) -> dict:
    """Two stacks of different depth; the layers' arrays differ in size by orders of magnitude."""
    rng = np.random.default_rng(seed)

    def layer(size):
        return {name: jnp.asarray(size * rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}

    def stack(count):
        return {f"layers_{index}": layer(scale * 10.0**index) for index in range(count)}

    return {"encoder": stack(2) | {"norm": {"scale": jnp.ones(4)}}, "decoder": stack(3), "embedding": layer(scale)}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_stack_is_updated_as_its_layers_would_be(rule):
    optimizer = Optimizer(rule, Constant(0.1), clip_norm=3.0)

    @jax.jit
    def three_steps(params):
        state = optimizer.init({"model": params})
        for step in range(3):
            grads = layered(step + 1, 0.1)
            grads = stack_layers(grads) if "layers" in params["encoder"] else grads
            new, state, figures = optimizer.update({"model": grads}, state, {"model": params}, step)
            params = new["model"]
        return params, figures

    wanted, wanted_figures = three_steps(layered(0))
    found, figures = three_steps(stack_layers(layered(0)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), unstack_layers(found), wanted)
    np.testing.assert_allclose(figures["grad_norm"], wanted_figures["grad_norm"], rtol=1e-6)
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), found, stack_layers(layered(0)))
    assert min(jax.tree.leaves(moved)) > 0 or rule == RULES["muon"]


def test_a_tree_without_stacks_keeps_the_rules_own_state():
    rule = RULES["adafactor"]
    params = layered(0)
    ours = Optimizer(rule, Constant(0.1)).init({"model": params})["model"]
    assert jax.tree.structure(ours) == jax.tree.structure(rule.transform().init(params))


@pytest.mark.parametrize("rule", [AdamW(), Adafactor(min_dim_size_to_factor=4)], ids=["adamw", "adafactor"])
def test_states_of_a_stack_are_sharded_as_the_stack(rule):
    network = Llama(40, 16, 2, 8, 32, num_layers=3, execution=Execution(scan=True))
    mesh = Partitioning(data=2, fsdp=2, tensor=2).mesh()
    create, shapes = initial_state({"model": network}, Optimizer(rule, Constant(0.1)), 0, mesh)
    kernel = shapes.params["model"]["layers"]["mlp"]["wi_0"]["kernel"]
    assert kernel.shape == (3, 16, 32) and kernel.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    state = shapes.opt_state["model"]
    assert isinstance(state, LayeredState) and list(state.stacks) == ["layers"]
    places = {}
    for leaf in jax.tree.leaves(state.stacks):
        assert leaf.shape[0] == 3
        places.setdefault(leaf.shape, set()).add(leaf.sharding)
    moments = places.get((3, 16, 32), set())
    assert moments == ({NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))} if rule == AdamW() else set())
    made = jax.jit(create)()
    jax.tree.map(lambda leaf, shape: np.testing.assert_equal(leaf.shape, shape.shape), made, shapes)
