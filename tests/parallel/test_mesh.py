"""A mesh uses every device it is given, and says what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from mixlm.errors import UserError
from mixlm.parallel.mesh import Partitioning, batch_sharding, check_batch, parameter_shardings, replicated


@pytest.mark.parametrize(
    ("axes", "sizes"),
    [
        ({}, (8, 1, 1, 1)),
        ({"data": 8}, (8, 1, 1, 1)),
        ({"data": 1, "fsdp": -1}, (1, 8, 1, 1)),
        ({"fsdp": 2}, (4, 2, 1, 1)),
        ({"fsdp": 2, "tensor": 2}, (2, 2, 1, 2)),
        ({"data": 4, "tensor": -1}, (4, 1, 1, 2)),
        ({"sequence": 2, "tensor": 2}, (2, 1, 2, 2)),
        ({"data": 2, "sequence": -1}, (2, 1, 4, 1)),
    ],
)
def test_an_axis_of_minus_one_takes_the_devices_that_are_left(axes, sizes):
    mesh = Partitioning(**axes).mesh()
    assert tuple(mesh.shape.items()) == tuple(zip(("data", "fsdp", "sequence", "tensor"), sizes))
    assert {device.id for device in mesh.devices.flat} == {device.id for device in jax.devices()}


def test_a_mesh_over_some_of_the_devices():
    mesh = Partitioning(tensor=2).mesh(jax.devices()[:4])
    assert mesh.devices.shape == (2, 1, 1, 2)
    assert sorted(device.id for device in mesh.devices.flat) == [device.id for device in jax.devices()[:4]]


@pytest.mark.parametrize("axes", [{"data": 3}, {"data": 4}, {"data": 16}, {"tensor": 3}, {"fsdp": 5, "data": -1}])
def test_a_mesh_that_does_not_fit_is_an_error(axes):
    with pytest.raises(UserError, match=r"does not fit 8 devices") as caught:
        Partitioning(**axes).mesh()
    assert all(f"'{axis}': {size}" in str(caught.value) for axis, size in axes.items())


@pytest.mark.parametrize(
    ("axes", "near"),
    [
        ({"data": 4}, (8, 1, 1, 1)),
        ({"data": 16}, (8, 1, 1, 1)),
        ({"tensor": 3}, (2, 1, 1, 4)),
        ({"tensor": 16}, (1, 1, 1, 8)),
        ({"data": 2, "fsdp": 3}, (2, 4, 1, 1)),
        ({"data": 1, "sequence": 3, "tensor": 2}, (1, 1, 4, 2)),
        ({"fsdp": 5, "data": -1}, (2, 4, 1, 1)),
    ],
)
def test_the_nearest_mesh_is_named(axes, near):
    named = " x ".join(f"{axis} {size}" for axis, size in zip(("data", "fsdp", "sequence", "tensor"), near))
    with pytest.raises(UserError, match=rf"the nearest that does is {named}\.$"):
        Partitioning(**axes).mesh()


@pytest.mark.parametrize("axes", [{"fsdp": -1}, {"tensor": 0}, {"data": -2}, {"data": 0, "fsdp": -1}])
def test_axes_that_no_mesh_has_are_an_error(axes):
    with pytest.raises(UserError, match="must be positive, at most one of them -1"):
        Partitioning(**axes).mesh()


@pytest.mark.parametrize(
    ("rows", "nearest"), [(1, 4), (3, 4), (5, 4), (7, 8), (9, 8), (11, 12), (4, None), (8, None), (400, None)]
)
def test_a_batch_that_does_not_divide_names_the_nearest_that_does(rows, nearest):
    mesh = Partitioning(data=2, fsdp=2, tensor=2).mesh()
    if nearest is None:
        return check_batch(mesh, rows, "A batch")
    with pytest.raises(UserError, match=rf"^A batch of {rows} rows .* 4 devices .* can is {nearest}\.$"):
        check_batch(mesh, rows, "A batch")


def test_rows_lie_over_the_data_and_fsdp_axes():
    mesh = Partitioning(data=2, fsdp=2, tensor=2).mesh()
    rows = jax.device_put(np.arange(8)[:, None] * np.ones((1, 3)), batch_sharding(mesh))
    held = {shard.device.id: set(np.asarray(shard.data)[:, 0].astype(int)) for shard in rows.addressable_shards}
    for (data, fsdp, _, _), device in np.ndenumerate(mesh.devices):
        first = 2 * (2 * data + fsdp)
        assert held[device.id] == {first, first + 1}
    whole = jax.device_put(np.arange(8), replicated(mesh))
    assert all(shard.data.shape == (8,) for shard in whole.addressable_shards)


def boxed(names, shape):
    return nn.Partitioned(jnp.zeros(shape), names)


@pytest.mark.parametrize(
    ("names", "shape", "spec"),
    [
        (("embed", "mlp"), (16, 32), ("fsdp", "tensor")),
        (("vocab", "embed"), (64, 16), ("tensor", "fsdp")),
        (("embed", "joined_kv"), (16, 16), ("fsdp", "tensor")),
        (("heads", "relpos_buckets"), (2, 32), ("tensor", None)),
        (("embed",), (16,), ("fsdp",)),
        (("embed", "mlp"), (15, 32), (None, "tensor")),
        (("embed", "mlp"), (16, 33), ("fsdp", None)),
        (("embed", "embed"), (16, 16), ("fsdp", None)),
        (("mlp", None), (32, 1), ("tensor", None)),
    ],
)
def test_logical_axes_lie_on_the_mesh_where_it_divides_them(names, shape, spec):
    mesh = Partitioning(data=2, fsdp=2, tensor=2).mesh()
    found = parameter_shardings(mesh, {"kernel": boxed(names, shape), "plain": jnp.zeros(3)})
    assert found["kernel"].spec == PartitionSpec(*spec)
    assert found["plain"].spec == PartitionSpec()
