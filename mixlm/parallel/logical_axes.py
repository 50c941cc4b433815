"""Logical axes by T5X's names, the rules that map them onto a mesh, and the sharding constraints of a trace."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

AXES = ("data", "fsdp", "sequence", "tensor")
Rule = tuple[str, str | tuple[str, ...] | None]
# By priority, as in T5X: where a rule's mesh axis is taken by an earlier rule of the same array, the next one is tried.
# So `embed` is cut over fsdp in a parameter, and whole in an activation, whose rows are on that axis already.
RULES: tuple[Rule, ...] = (
    ("batch", ("data", "fsdp")),
    ("length", "sequence"),
    ("vocab", "tensor"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("joined_kv", "tensor"),
    ("embed", "fsdp"),
    ("kv", None),
    ("relpos_buckets", None),
    ("layers", None),
)
NAMES = tuple(name for name, _ in RULES)


def mesh_axes(onto: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of a rule's right side."""
    return (onto,) if isinstance(onto, str) else tuple(onto or ())


@dataclass(frozen=True)
class Layout:
    """A mesh and the rules that map logical axes onto it; the mesh axes in `taken` are not to be had.

    The mesh's `data` axis goes over `slices` slices first.
    """

    mesh: Mesh
    rules: tuple[Rule, ...] = RULES
    taken: tuple[str, ...] = ()
    slices: int = 1

    @property
    def described(self) -> str:
        """The axes with their sizes, such as "data 4 x fsdp 2 x sequence 1 x tensor 1 over 2 slices"."""
        axes = " x ".join(f"{name} {size}" for name, size in self.mesh.shape.items())
        return axes + (f" over {self.slices} slices" if self.slices > 1 else "")

    def spec(self, names: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
        """The PartitionSpec of an array with these logical axes; a size that these do not divide stays whole."""
        found: list[str | tuple[str, ...] | None] = [None] * len(shape)
        used = set(self.taken)
        for name, onto in self.rules:
            axes = mesh_axes(onto)
            for place, size in enumerate(shape):
                free = names[place] == name and found[place] is None and used.isdisjoint(axes)
                if axes and free and size % self.devices(axes) == 0:
                    found[place] = onto
                    used.update(axes)
        return PartitionSpec(*found)

    def sharding(self, names: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
        """`spec` on the mesh."""
        return NamedSharding(self.mesh, self.spec(names, shape))

    def cut(self, names: Sequence[str | None], shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of each device's part of such an array."""
        return self.sharding(names, shape).shard_shape(tuple(shape))

    def devices(self, axes: Sequence[str]) -> int:
        """The product of the sizes of these mesh axes."""
        return math.prod(self.mesh.shape[axis] for axis in axes)

    def axes_of(self, name: str) -> tuple[str, ...]:
        """The mesh axes that the first rule for a logical axis gives it, unless they are taken."""
        onto = next((mesh_axes(onto) for rule, onto in self.rules if rule == name), ())
        return () if set(onto) & set(self.taken) else onto

    def parts(self, name: str) -> int:
        """The number of shards of a logical axis, where its size allows it."""
        return self.devices(self.axes_of(name))

    def without(self, *names: str) -> "Layout":
        """The layout inside of something that is already cut over the mesh axes of these logical axes."""
        taken = [axis for name in names for axis in self.axes_of(name)]
        return replace(self, taken=(*self.taken, *taken))

    def pinned(self, x: Shaped[Array, "*any"], names: Sequence[str | None]) -> Shaped[Array, "*any"]:
        """`x`, cut as its logical axes say; on one device nothing is said to the compiler."""
        if self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, self.sharding(names, x.shape))

    def gathered(self, x: Shaped[Array, "*any"], names: Sequence[str | None]) -> Shaped[Array, "*any"]:
        """A parameter as products with activations read it: whole over the mesh axes of rows and positions.

        Its gradient is added up and cut again at once. What is whole is kept for it, unless the layer is computed again
        (REMAT).
        """
        inside = self.without("batch", "length")
        if self.spec(names, x.shape) == inside.spec(names, x.shape):
            return x
        # The first says nothing on the way there; on the way back it is what cuts the gradient.
        return inside.pinned(self.pinned(x, names), names)


_in_force: ContextVar[Layout | None] = ContextVar("layout", default=None)
_noted: ContextVar[set[str] | None] = ContextVar("noted", default=None)


def in_force() -> Layout | None:
    """The layout in force while tracing, if any."""
    return _in_force.get()


@contextmanager
def laid_out(layout: Layout | None) -> Iterator[None]:
    """Traces the code inside of the block with the sharding constraints of `layout`."""
    before = _in_force.set(layout)
    try:
        yield
    finally:
        _in_force.reset(before)


def under(layout: Layout, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, traced with the layout in force."""
    return _Under(layout, function)


@dataclass(frozen=True)
class _Under:
    # No closure: the numbers of the function that may vary (`training.traced_hparams`) are to be seen from outside.
    layout: Layout
    function: Callable[..., Any]

    def __call__(self, *given: Any) -> Any:
        with laid_out(self.layout):
            return self.function(*given)


@contextmanager
def names_noted() -> Iterator[set[str]]:
    """Inside, yields the logical axes by which activations are pinned, whether a layout is in force or not."""
    found: set[str] = set()
    before = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(before)


def note(names: Sequence[str | None]) -> None:
    """Notes the logical axes of an activation for `names_noted`."""
    found = _noted.get()
    if found is not None:
        found.update(name for name in names if name)


def platform() -> str:
    """The platform that is traced for: that of the mesh in force, whose devices may be elsewhere."""
    layout = in_force()
    return jax.default_backend() if layout is None else layout.mesh.devices.flat[0].platform


def device_kind() -> str:
    """JAX's name of the kind of devices that is traced for."""
    layout = in_force()
    return (jax.devices()[0] if layout is None else layout.mesh.devices.flat[0]).device_kind


def not_cut() -> bool:
    """True where the trace is for a single device."""
    layout = in_force()
    return layout is None or layout.mesh.size == 1
