"""The first state: the parameters of Flax's own init, and as much to compile for many layers as for few."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax.core import meta

from mixlm.models.layer_stack import Execution
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.t5 import EncoderDecoder
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.params import stack_layers
from mixlm.rng import init_key
from mixlm.schedules import Constant
from mixlm.training.initial_state import batched_draws, initial_state

SIZES = {"vocab_size": 24, "emb_dim": 8, "num_heads": 2, "head_dim": 4, "mlp_dim": 12}
NETWORKS = {
    "llama": Llama(**SIZES, num_layers=3),
    "ltg_bert": LTGBert(**SIZES, num_layers=2, num_buckets=4, max_position=32),
    "t5": EncoderDecoder(**SIZES, num_encoder_layers=2, num_decoder_layers=1),
}
OPTIMIZER = Optimizer(AdamW(), Constant(1e-3))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_those_of_flax_run_alone_to_rounding(name, scan):
    network = NETWORKS[name]
    expected = meta.unbox(network.init(init_key(5, 0), *network.inputs())["params"])
    network = network.clone(execution=replace(network.execution, scan=scan, remat="nothing_saveable"))
    create, _ = initial_state({"model": network}, OPTIMIZER, 5, Partitioning().mesh(jax.devices()[:1]))
    found = create().params["model"]
    expected = stack_layers(expected) if scan else expected
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-7 * float(abs(other).max()))


def draws(function):
    """The rounds of threefry in a function's program, by calls."""
    return len(re.findall(r"call @threefry2x32", expanded(jax.jit(function).lower(np.int32(0)).as_text())))


def expanded(program):
    """A StableHLO program as a text in which a private function stands as often as it is called."""
    bodies = {
        name: body for name, body in re.findall(r"func\.func \w+ @(\w+)\(.*?\{\n(.*?)\n  \}", program, flags=re.DOTALL)
    }

    def inlined(name):
        return re.sub(r"call @(\w+)", lambda call: call[0] + " " + inlined(call[1]), bodies[name])

    return inlined("main")


@pytest.mark.parametrize("scan", [False, True])
def test_more_layers_draw_no_more_often(scan):
    def make(layers):
        network = Llama(**SIZES, num_layers=layers, execution=Execution(scan=scan))
        return batched_draws(lambda seed: network.init(init_key(seed, 0), *network.inputs()))

    counted = [draws(make(layers)) for layers in (2, 5)]
    assert counted[0] == counted[1] > 0


def test_a_draw_from_a_drawn_key_and_draws_of_other_kinds_keep_their_numbers():
    def function(seed):
        first, second = jax.random.split(jax.random.key(seed))
        third = jax.random.fold_in(first, jax.random.randint(second, (), 0, 9))
        wide = [jax.random.uniform(key, (3,), minval=0, maxval=top) for key, top in ((first, 1.0), (third, 2.0))]
        return wide, jax.random.normal(third, (3,)), jax.random.normal(second, (2,)), 7

    for found, expected in zip(jax.tree.leaves(batched_draws(function)(3)), jax.tree.leaves(function(3)), strict=True):
        np.testing.assert_array_equal(found, expected)
