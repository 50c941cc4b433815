"""Every recipe on meshes of eight devices: the losses of one device, and a share of the state on each."""

import sys

import jax
import pytest
from support.places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from meshes import RECIPES, TOLERANCE, difference, held, mistakes, small, steps_on

from mixlm.errors import UserError
from mixlm.parallel.logical_axes import AXES
from mixlm.parallel.mesh import Partitioning, bytes_per_device
from mixlm.training.prepare import prepare
from mixlm.training.summary import summary

# Each network and each axis of the mesh; benchmarks/meshes.py has every recipe on every mesh.
SELECTED = {
    "spactor": (2, 2, 1, 2),
    "dual": (1, 8, 1, 1),
    "gpt_bert": (1, 4, 1, 2),
    "antlm_ltg_bert": (2, 1, 2, 2),
    "ar2diff": (1, 2, 1, 4),
    "mile": (1, 2, 4, 1),
}


def test_every_network_is_here():
    networks = [{type(module) for module in small(name, short=True).networks.values()} for name in RECIPES]
    chosen = [{type(module) for module in small(name, short=True).networks.values()} for name in SELECTED]
    assert set().union(*chosen) == set().union(*networks)


# One stage of each is compiled here.
STAGE = {"spactor": "TAU=10", "ar2diff": "TAU=0", "antlm_ltg_bert": "SCHEDULE='1 mlm'"}


def brief(name: str):
    return small(name, *([STAGE[name]] if name in STAGE else []), short=True)


QUICK = ("mile",)  # test_sharding has five steps of spactor


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SELECTED])
def test_ten_steps_on_a_mesh_are_ten_steps_on_one_device(name):
    mesh = Partitioning(**dict(zip(AXES, SELECTED[name])))
    losses, parameters, optimizer = steps_on(brief(name), mesh, jax.devices())
    wanted, *whole = steps_on(brief(name), Partitioning(), jax.devices()[:1])
    assert difference(losses, wanted) <= TOLERANCE
    # The benchmark's own laws say that the shares shrink as they should.
    one = dict.fromkeys(AXES, 1) | {"recipe": name, "difference": 0.0, "parameters": whole[0], "optimizer": whole[1]}
    line = dict(zip(AXES, SELECTED[name])) | {"recipe": name, "difference": 0.0}
    assert mistakes([one, line | {"parameters": parameters, "optimizer": optimizer}]) == []


def prepared(name: str, *bindings: str):
    return prepare(small(name, *bindings, short=True), None)


def test_the_summary_names_the_mesh_and_what_each_device_holds():
    made = prepared("mile", "FSDP_PARTITIONS=4", "NUM_PARTITIONS=2", "DATA_PARTITIONS=1")
    try:
        (devices,) = [line for line in summary(made) if line.startswith("devices")]
        (each,) = [line for line in summary(made) if line.startswith("each holds")]
        assert "mesh data 1 x fsdp 4 x sequence 1 x tensor 2" in devices
        state = made.init_state()
        assert bytes_per_device(made.shapes.params) == held(state.params)
        assert bytes_per_device(made.shapes.opt_state) == held(state.opt_state)
        assert f"{held(state.params) / 1024:.4g} KiB of parameters" in each
        assert f"{held(state.opt_state) / 1024:.4g} KiB of the optimizer's state" in each
    finally:
        made.close()


@pytest.mark.parametrize(
    ("name", "binding", "words"),
    [
        ("mile", "NUM_PARTITIONS=3", ["'tensor': 3", "8 devices", "data 2 x fsdp 1 x sequence 1 x tensor 4"]),
        ("mile", "SEQUENCE_PARTITIONS=16", ["'sequence': 16", "sequence 8"]),
        ("mile", "LOGICAL_AXIS_RULES=(('vocab', 'model'),)", ["'model'", "Did you mean 'tensor'?"]),
        ("mile", "LOGICAL_AXIS_RULES=(('vocab', 'tensors'),)", ["'tensors'", "Did you mean 'tensor'?"]),
        ("mile", "LOGICAL_AXIS_RULES=(('vocabulary', 'tensor'),)", ["'vocabulary'", "Did you mean 'vocab'?"]),
        ("mile", "LOGICAL_AXIS_RULES=(('batch', ('data', 'data')),)", ["twice"]),
        ("mile", "LOGICAL_AXIS_RULES=('vocab',)", ["LOGICAL_AXIS_RULES", "('vocab',)"]),
    ],
)
def test_what_no_mesh_has_is_one_sentence(name, binding, words):
    with pytest.raises(UserError) as caught:
        prepared(name, binding).close()
    assert all(word in str(caught.value) for word in words), str(caught.value)
