"""The mesh of data, fsdp, sequence and tensor axes, and the shardings of a run's arrays on it."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
from flax.core import meta
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixlm.errors import UserError, nearest
from mixlm.parallel.logical_axes import AXES, NAMES, RULES, Layout, Rule, in_force, mesh_axes, names_noted
from mixlm.parallel.slices import arranged, slices_of

# T5X has two mesh axes of its own names.
T5X_AXES = {"model": "tensor"}


@dataclass(frozen=True)
class Partitioning:
    """Devices of a slice per mesh axis: `data` replicates parameters, `fsdp` shards them over the batch's devices,
    `sequence` splits the length of activations, `tensor` splits heads, MLP and vocabulary; -1 takes what is left.

    `slices` are data parallel, each with all parameters: the mesh's `data` axis is `slices` times as long, and they lie
    outermost on it. None is what the hardware has (see `slices.slices_of`).

    `rules` are pairs of a logical axis and the mesh axis, or axes, or None that it lies on, as in T5X; they replace
    those of `logical_axes.RULES` for the logical axes that they name, and come before the others. UserError for a mesh
    axis that there is not.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1
    rules: tuple[Rule, ...] = field(default=(), repr=False)
    slices: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(_rule(rule) for rule in self.rules))
        asked = self._asked
        if list(asked.values()).count(-1) > 1 or any(size < 1 and size != -1 for size in asked.values()):
            raise UserError(f"A mesh's axes must be positive, at most one of them -1, got {asked}.")
        if self.slices is not None and self.slices < 1:
            raise UserError(f"SLICES must be positive, or None for those of the devices, got {self.slices}.")

    @property
    def _asked(self) -> dict[str, int]:
        return {axis: getattr(self, axis) for axis in AXES}

    def mesh(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """The mesh over these devices, all of them by default; UserError where the axes do not multiply to them."""
        return self.layout(devices).mesh

    def layout(self, devices: Sequence[jax.Device] | None = None) -> Layout:
        """The mesh with its rules."""
        devices = jax.devices() if devices is None else list(devices)
        slices, asked = slices_of(devices, self.slices), self._asked
        fitting = _nearest_mesh(tuple(asked.values()), len(devices) // slices)
        if any(size not in (-1, found) for size, found in zip(asked.values(), fitting)):
            near = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, fitting))
            held = f"{len(devices)} devices" if slices == 1 else f"the {len(devices) // slices} devices of a slice"
            raise UserError(f"A mesh of {asked} does not fit {held}; the nearest that does is {near}.")
        types, named = (jax.sharding.AxisType.Auto,) * len(AXES), {name for name, _ in self.rules}
        mesh = Mesh(arranged(devices, slices, fitting), AXES, axis_types=types)
        return Layout(mesh, (*self.rules, *(rule for rule in RULES if rule[0] not in named)), slices=slices)


def _rule(rule: Any) -> Rule:
    if not isinstance(rule, list | tuple) or len(rule) != 2 or not isinstance(rule[0], str):
        raise UserError(f"A rule is a pair of a logical axis and a mesh axis, such as ('mlp', 'tensor'), not {rule!r}.")
    name, onto = rule
    if not isinstance(onto, str | list | tuple | None):
        raise UserError(
            f"The logical axis {name!r} cannot lie on {onto!r}: give a mesh axis, a tuple of them, or None."
        )
    axes = mesh_axes(tuple(onto) if isinstance(onto, list) else onto)
    for axis in axes:
        if axis not in AXES:
            close = f" Did you mean {T5X_AXES[axis]!r}?" if axis in T5X_AXES else nearest(str(axis), AXES)
            raise UserError(f"The rule {tuple(rule)} names no axis of the mesh ({', '.join(AXES)}): {axis!r}.{close}")
    if len(set(axes)) < len(axes):
        raise UserError(f"The rule {tuple(rule)} names a mesh axis twice.")
    return name, onto if isinstance(onto, str) else axes or None


def _nearest_mesh(asked: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The sizes with product `count` whose ratios to those asked for are nearest to 1; -1 may be any."""
    divisors = [size for size in range(1, count + 1) if count % size == 0]
    fitting = (
        (*sizes, count // math.prod(sizes))
        for sizes in itertools.product(divisors, repeat=len(asked) - 1)
        if count % math.prod(sizes) == 0
    )

    def distance(sizes: tuple[int, ...]) -> tuple[float, ...]:
        ratios = [abs(math.log(size / want)) for size, want in zip(sizes, asked) if want != -1]
        # Of equally near ones that with more rows at once, which every network can have.
        return sum(ratio > 0 for ratio in ratios), round(sum(ratios), 9), -sizes[0], -sizes[1]

    return min(fitting, key=distance)


def layout_of(where: Mesh | Layout) -> Layout:
    """A layout as it is; a mesh with the usual rules."""
    return where if isinstance(where, Layout) else Layout(where)


def replicated(where: Mesh | Layout) -> NamedSharding:
    """One copy on every device."""
    return NamedSharding(layout_of(where).mesh, PartitionSpec())


def batch_sharding(where: Mesh | Layout) -> NamedSharding:
    """Rows over the mesh axes of the batch."""
    layout = layout_of(where)
    return NamedSharding(layout.mesh, PartitionSpec(layout.axes_of("batch")))


def held_rows(where: Mesh | Layout, process: int) -> tuple[int, int]:
    """(i, n): the i-th of n equal runs of a batch's rows is the shortest that has all the rows of a process's devices.

    Where an axis that does not cut rows crosses processes, several of them have the same rows.
    """
    layout = layout_of(where)
    parts = layout.parts("batch")
    places: Any = batch_sharding(layout).devices_indices_map((parts,))
    held = {index[0].indices(parts)[0] for device, index in places.items() if device.process_index == process}
    if not held:
        raise UserError(f"The mesh has no device of process {process}.")
    return aligned_run(sorted(held), parts)


def aligned_run(held: list[int], parts: int) -> tuple[int, int]:
    """(i, n) with the largest n that divides `parts` such that the i-th n-th of 0 ... parts - 1 has all of `held`."""
    for count in range(parts, 1, -1):
        runs = {part * count // parts for part in held}
        if parts % count == 0 and len(runs) == 1:
            return runs.pop(), count
    return 0, 1


def check_batch(where: Mesh | Layout, rows: int, what: str) -> None:
    """Raises UserError where the mesh axes of the batch do not divide `rows`; `what` names the rows."""
    layout = layout_of(where)
    parts = layout.parts("batch")
    if rows % parts:
        raise UserError(
            f"{what} of {rows} rows cannot be divided over {parts} devices ({' x '.join(layout.axes_of('batch'))}); "
            f"the nearest that can is {max(round(rows / parts), 1) * parts}."
        )


def check_lengths(layout: Layout, lengths: Mapping[str, int]) -> None:
    """Raises UserError where the mesh axes of the length divide none of these lengths; the others stay whole."""
    parts = layout.parts("length")
    if all(length % parts for length in lengths.values()):
        name, length = next(iter(lengths.items()))
        raise UserError(
            f"None of TASK_FEATURE_LENGTHS {dict(lengths)} can be divided over {parts} devices "
            f"({' x '.join(layout.axes_of('length'))}); the nearest {name!r} that can is "
            f"{max(round(length / parts), 1) * parts}."
        )


@lru_cache(maxsize=64)
def boxed_parameters(module: nn.Module) -> tuple[Any, frozenset[str]]:
    """(the shapes of a network's parameters, boxed with their logical axes; the logical axes of its activations)."""
    with names_noted() as names:
        boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), *module.inputs())["params"])
    return boxed, frozenset(names)


def check_networks(layout: Layout, modules: Mapping[str, nn.Module]) -> None:
    """Raises UserError for a rule whose logical axis no network has, and for a mesh axis that would cut nothing.

    A mesh axis that does not cut rows must cut parameters or activations of every network: else its devices would all
    do the same. A network of one's own is cut where its parameters are boxed (`nn.with_logical_partitioning`) and its
    activations pinned (`mixlm.models.layers.constrain`).
    """
    used = {name: _logical_axes(module) for name, module in modules.items()}
    known = set(NAMES).union(*used.values())
    for rule in layout.rules:
        if rule[0] not in known:
            raise UserError(
                f"The rule {rule} names no logical axis of these networks ({', '.join(sorted(known))})."
                f"{nearest(rule[0], known)}"
            )
    for axis in AXES:
        if layout.mesh.shape[axis] == 1 or axis in layout.axes_of("batch"):
            continue
        names = [name for name, onto in layout.rules if axis in mesh_axes(onto)]
        for network, has in used.items():
            if not has.intersection(names):
                named = f"none of {', '.join(names)}" if names else "and no rule names it"
                raise UserError(
                    f"{axis.upper()}_PARTITIONS = {layout.mesh.shape[axis]} would split nothing of the network "
                    f"{network!r} ({type(modules[network]).__name__}): its logical axes are "
                    f"{', '.join(sorted(has)) or 'none'}, {named}."
                )


def _logical_axes(module: nn.Module) -> frozenset[str]:
    boxed, activations = boxed_parameters(module)
    leaves = jax.tree.leaves(boxed, is_leaf=_is_box)
    return activations.union(name for leaf in leaves if isinstance(leaf, nn.Partitioned) for name in leaf.names if name)


def parameter_shardings(where: Mesh | Layout, boxed: Mapping[str, Any]) -> Any:
    """The shardings of boxed parameters, by their logical axes; a size that an axis does not divide stays whole."""
    layout = layout_of(where)

    def sharding(box: Any) -> NamedSharding:
        if not isinstance(box, nn.Partitioned):
            return replicated(layout)
        return layout.sharding(box.names, box.value.shape)

    return jax.tree.map(sharding, boxed, is_leaf=_is_box)


def pinned_gradients(modules: Mapping[str, nn.Module], gradients: Mapping[str, Any]) -> dict[str, Any]:
    """The gradients of networks, cut as their parameters are, by the layout in force: each device adds up its own."""
    layout = in_force()
    if layout is None or layout.mesh.size == 1:
        return dict(gradients)
    return {
        name: jax.tree.map(
            jax.lax.with_sharding_constraint, tree, parameter_shardings(layout, boxed_parameters(modules[name])[0])
        )
        for name, tree in gradients.items()
    }


def moment_sharding(leaf: Any, param: Any, sharding: NamedSharding) -> NamedSharding:
    """The sharding of an optimizer's moment: its parameter's; a factored moment, which lacks one of the
    parameter's axes, with the axes that it has; anything else on every device.
    """
    if leaf.shape == param.shape:
        return sharding
    axes = (*sharding.spec, *[None] * (len(param.shape) - len(sharding.spec)))
    for place in reversed(range(len(param.shape))):
        if leaf.shape == (*param.shape[:place], *param.shape[place + 1 :]):
            return NamedSharding(sharding.mesh, PartitionSpec(*axes[:place], *axes[place + 1 :]))
    return NamedSharding(sharding.mesh, PartitionSpec())


def bytes_per_device(shapes: Any) -> int:
    """Bytes on one device of a tree of arrays, or of their shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)
    )


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, meta.AxisMetadata)
