"""Slices lie outermost on the data axis, each holds all parameters, and the hardware has the last word."""

import sys
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.places import ROOT
from support.process_runs import DEVICES, assert_equal_runs
from support.small_run import recipe

sys.path.insert(0, str(ROOT / "benchmarks"))

from meshes import difference, small, steps_on

from mixlm.errors import UserError
from mixlm.parallel.mesh import Partitioning
from mixlm.parallel.slices import arranged, slices_of
from mixlm.training import run as loop


@dataclass(frozen=True)
class Device:
    """A device of another machine, as JAX describes it."""

    id: int
    slice_index: int | None
    platform: str = "gpu"


def hosts(*sizes: int, platform: str = "gpu") -> list[Device]:
    """Hosts of so many devices."""
    places = [host for host, size in enumerate(sizes) for _ in range(size)]
    return [Device(number, host, platform) for number, host in enumerate(places)]


@given(st.permutations(range(12)), st.sampled_from([1, 2, 4]))
def test_each_slice_has_whole_hosts_and_is_outermost(order, slices):
    devices = hosts(3, 3, 3, 3)
    found = arranged([devices[place] for place in order], slices, (12 // slices // 3, 3, 1, 1))
    assert found.shape == (4, 3, 1, 1)
    per_slice = found.reshape(slices, -1)
    for index, held in enumerate(per_slice):
        there = {device.slice_index for device in held}
        assert there == set(range(index * 4 // slices, (index + 1) * 4 // slices))
    assert [device.id for device in found.flat] == list(range(12))


@pytest.mark.parametrize(
    ("devices", "asked", "found"),
    [
        (hosts(4, 4), None, 1),
        (hosts(4, 4), 2, 2),
        (hosts(4, 4), 1, 1),
        (hosts(2, 2, 2, 2), 2, 2),
        (hosts(8), 4, 4),
        ([Device(number, None, "cpu") for number in range(8)], 2, 2),
        (hosts(4, 4, platform="tpu"), None, 2),
        (hosts(4, 4, platform="tpu"), 2, 2),
    ],
)
def test_slices_are_the_hardware_s_or_those_asked_for(devices, asked, found):
    assert slices_of(devices, asked) == found


@pytest.mark.parametrize(
    ("devices", "asked", "sentence"),
    [
        (hosts(2, 2, 2, 2, platform="tpu"), 2, "SLICES = 2, and these 8 TPUs are of 4 slices."),
        (hosts(4, 4, platform="tpu"), 1, "SLICES = 1, and these 8 TPUs are of 2 slices."),
        (hosts(8, platform="tpu"), 2, "SLICES = 2, and these 8 TPUs are of 1 slice."),
        (hosts(2, 2, 2, 2), 8, "SLICES = 8, and these 8 devices are of 4 hosts, which 8 slices cannot share evenly."),
        (hosts(8), 3, "SLICES = 3 cannot share 8 devices evenly."),
    ],
)
def test_what_contradicts_the_hardware_is_one_sentence(devices, asked, sentence):
    with pytest.raises(UserError) as caught:
        slices_of(devices, asked)
    assert str(caught.value) == sentence


def test_slices_of_unequal_size_are_refused():
    with pytest.raises(UserError, match=r"slices of equal size, and these have \{0: 2, 1: 4\} TPUs"):
        arranged(hosts(2, 4, platform="tpu"), 2, (3, 1, 1, 1))


@pytest.mark.parametrize(
    ("axes", "shape"),
    [({}, (8, 1, 1, 1)), ({"data": 1, "fsdp": -1}, (2, 4, 1, 1)), ({"fsdp": 2, "tensor": 2}, (2, 2, 1, 2))],
)
def test_the_axes_are_those_of_each_slice(axes, shape):
    layout = Partitioning(**axes, slices=2).layout()
    assert layout.mesh.devices.shape == shape and layout.slices == 2
    first, second = layout.mesh.devices.reshape(2, -1)
    assert [device.id for device in (*first, *second)] == [device.id for device in jax.devices()]
    # A slice has all of a parameter.
    held = jax.device_put(np.arange(64.0).reshape(8, 8), layout.sharding(("embed", "mlp"), (8, 8))).addressable_shards
    for part in (first, second):
        places = {str(shard.index): shard.data.size for shard in held if shard.device in list(part)}
        assert sum(places.values()) == 64


def test_no_slices_at_all_are_refused():
    with pytest.raises(UserError, match=r"^SLICES must be positive, or None for those of the devices, got 0\.$"):
        Partitioning(slices=0)


def test_an_axis_longer_than_a_slice_names_the_nearest():
    with pytest.raises(UserError, match=r"'fsdp': 8.* does not fit the 4 devices of a slice; .* is data 1 x fsdp 4 "):
        Partitioning(data=1, fsdp=8, slices=2).mesh()


def test_placement_is_no_part_of_what_a_run_is():
    made = recipe("text", "folder")
    assert replace(made, partitioning=Partitioning(slices=2, fsdp=2)).identity() == made.identity()


@pytest.mark.slow
def test_losses_are_those_of_the_flat_mesh():
    made = small("mile", short=True)
    flat, *_ = steps_on(made, Partitioning(), jax.devices())
    sliced, *_ = steps_on(made, Partitioning(data=1, fsdp=-1, slices=2), jax.devices())
    assert difference(sliced, flat) <= 1e-6


@pytest.mark.slow
def test_a_run_goes_on_without_its_slices(corpus, tmp_path, monkeypatch):
    sliced = recipe(str(corpus), str(tmp_path / "run"), mesh={"data": 1, "fsdp": -1, "slices": 2}, train_steps=6)
    loop.train(sliced, say=lambda _: None)
    made = recipe(str(corpus), str(tmp_path / "run"))
    loop.train(made, say=lambda _: None)
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])
    alone = recipe(str(corpus), str(tmp_path / "alone"))
    loop.train(alone, say=lambda _: None)
    assert_equal_runs(made, alone)
