"""Slices of accelerators: fast links (ICI, NVLink) inside of each, the data centre's network (DCN) between them.

A slice holds the axes of a mesh, and the slices are data parallel: parameters are gathered inside of a slice, and its
gradients alone cross the network. MaxText says the same by `dcn_data_parallelism` beside its `ici_*_parallelism`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from mixlm.errors import UserError
from mixlm.parallel.logical_axes import AXES


def slices_of(devices: Sequence[Any], asked: int | None) -> int:
    """The number of slices that a mesh over these devices has.

    A TPU's slices are the hardware's. Other devices are one slice unless others are asked for; each has whole hosts
    then. UserError where the hardware is otherwise.
    """
    there = len({_slice(device) for device in devices})
    if devices[0].platform == "tpu":
        if asked not in (None, there):
            raise UserError(f"SLICES = {asked}, and these {len(devices)} TPUs are of {_counted(there)}.")
        found = there
    else:
        found = asked or 1
        if there % found and there > 1:
            raise UserError(
                f"SLICES = {found}, and these {len(devices)} devices are of {there} hosts, which {found} slices cannot "
                f"share evenly."
            )
    if len(devices) % found:
        raise UserError(f"SLICES = {found} cannot share {len(devices)} devices evenly.")
    return found


def arranged(devices: Sequence[Any], slices: int, shape: tuple[int, ...]) -> NDArray[np.object_]:
    """The devices of a mesh whose slices have this shape each: slices are outermost on its first axis."""
    if devices[0].platform != "tpu":
        # JAX gives GPUs ids along their links, and CPUs by process.
        ordered = sorted(devices, key=lambda device: (_slice(device), device.id))
        flat = np.empty(len(ordered), object)
        flat[:] = ordered
        return flat.reshape(slices * shape[0], *shape[1:])
    # As `jax.experimental.mesh_utils.create_hybrid_device_mesh`, but with the choices that `jax.make_mesh` makes.
    groups: dict[int, list[Any]] = {}
    for device in devices:
        groups.setdefault(_slice(device), []).append(device)
    sizes = {index: len(group) for index, group in groups.items()}
    if len(set(sizes.values())) > 1:
        raise UserError(f"A mesh needs slices of equal size, and these have {sizes} TPUs.")
    meshes = [jax.make_mesh(shape, AXES, devices=groups[index]).devices for index in sorted(groups)]
    return np.concatenate(meshes)


def _slice(device: Any) -> int:
    """The slice that a device says it is of: a TPU's, a GPU's host or NVLink domain; 0 where it says none."""
    return getattr(device, "slice_index", None) or 0


def _counted(slices: int) -> str:
    return f"{slices} slices" if slices > 1 else "1 slice"
