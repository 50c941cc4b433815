"""Which devices hold what: a mesh of data, fsdp and tensor axes, and T5X's logical axis names mapped onto it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
from flax.core import meta
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixlm.errors import UserError

AXES = ("data", "fsdp", "tensor")
RULES = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "joined_kv": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
}


@dataclass(frozen=True)
class Partitioning:
    """How many devices share each axis: `data` replicates parameters, `fsdp` shards them over the batch's devices,
    `tensor` splits heads, MLP and vocabulary; -1 takes the devices that are left.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def mesh(self, devices: list[jax.Device] | None = None) -> Mesh:
        """The mesh over these devices, all of them by default; UserError where the axes do not multiply to them."""
        devices = jax.devices() if devices is None else devices
        sizes = {axis: getattr(self, axis) for axis in AXES}
        free = [axis for axis, size in sizes.items() if size == -1]
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
            raise UserError(f"A mesh's axes must be positive, at most one of them -1, got {sizes}.")
        if len(devices) % fixed or (not free and fixed != len(devices)):
            raise UserError(f"A mesh of {sizes} does not fit {len(devices)} devices.")
        for axis in free:
            sizes[axis] = len(devices) // fixed
        return jax.make_mesh(
            tuple(sizes.values()), AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES), devices=devices
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """One copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def held_rows(mesh: Mesh, process: int) -> tuple[int, int]:
    """(i, n): the i-th of n equal runs of a batch's rows is the shortest that has all the rows of a process's devices.

    Where the tensor axis crosses processes, several of them have the same rows.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    rows_of = mesh.devices.reshape(parts, -1)
    held = [part for part in range(parts) if any(device.process_index == process for device in rows_of[part])]
    if not held:
        raise UserError(f"The mesh has no device of process {process}.")
    return aligned_run(held, parts)


def aligned_run(held: list[int], parts: int) -> tuple[int, int]:
    """(i, n) with the largest n that divides `parts` such that the i-th n-th of 0 ... parts - 1 has all of `held`."""
    for count in range(parts, 1, -1):
        runs = {part * count // parts for part in held}
        if parts % count == 0 and len(runs) == 1:
            return runs.pop(), count
    return 0, 1


def check_batch(mesh: Mesh, rows: int, what: str) -> None:
    """Raises UserError where the mesh's batch axes do not divide `rows`; `what` names the rows."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % parts:
        raise UserError(
            f"{what} of {rows} rows cannot be divided over {parts} devices (data x fsdp); the nearest that can is "
            f"{max(round(rows / parts), 1) * parts}."
        )


def parameter_shardings(mesh: Mesh, boxed: Mapping[str, Any]) -> Any:
    """The shardings of boxed parameters, by their logical axes; a size that an axis does not divide stays whole."""
    return jax.tree.map(
        lambda box: NamedSharding(mesh, _spec(mesh, box)),
        boxed,
        is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata),
    )


def _spec(mesh: Mesh, box: Any) -> PartitionSpec:
    if not isinstance(box, nn.Partitioned):
        return PartitionSpec()
    axes = []
    for name, size in zip(box.names, box.value.shape):
        axis = RULES.get(name) if name else None
        axes.append(axis if axis and size % mesh.shape[axis] == 0 and axis not in axes else None)
    return PartitionSpec(*axes)
