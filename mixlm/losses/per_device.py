"""Sums over each device's own rows and positions, reduced once: loops over chunks must not communicate in each turn."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from mixlm.parallel.logical_axes import Layout, in_force, laid_out


@dataclass(frozen=True)
class Shards:
    """`rows` x `positions` equal shards of [B, T, ...], each on devices of its own."""

    layout: Layout
    rows: int
    positions: int

    def each(self, function: Callable[..., Any], *parts: Shaped[Array, "G ..."]) -> Any:
        """`function` of every shard, stacked along the shards' axis.

        What `function` closes over is broadcast to each shard (no copy more than a device has anyway), so that its
        gradient is reduced over shards once, at the end.
        """
        with self.inside():
            plain, held = jax.closure_convert(function, *(x[0] for x in parts))
            copies = [self._pinned(jnp.broadcast_to(x, (self.rows * self.positions, *x.shape))) for x in held]
            return jax.vmap(plain, spmd_axis_name=self._axes)(*parts, *copies)

    def inside(self) -> AbstractContextManager[None]:
        """A context in which sharding constraints are those of a single shard."""
        return laid_out(self.layout.without("batch", "length"))

    def cut(self, x: Shaped[Array, "B T ..."]) -> Shaped[Array, "G R P ..."]:
        """[B, T, ...] -> [shards, rows, positions, ...], each on its devices."""
        return self._pinned(self._cut(x))

    def whole(self, parts: Shaped[Array, "G R P"]) -> Shaped[Array, "B T"]:
        """Values per position of each shard, as [B, T]."""
        _, rows, positions = parts.shape
        found = jnp.moveaxis(parts.reshape(self.rows, self.positions, rows, positions), 1, 2)
        return found.reshape(self.rows * rows, self.positions * positions)

    def row_sums(self, parts: Shaped[Array, "G R"]) -> Shaped[Array, " B"]:
        """Row sums of each shard, summed over the row's shards: [B]."""
        return jnp.sum(parts.reshape(self.rows, self.positions, -1), axis=1).reshape(-1)

    @property
    def _axes(self) -> tuple[str, ...]:
        rows = self.layout.axes_of("batch") if self.rows > 1 else ()
        return (*rows, *(self.layout.axes_of("length") if self.positions > 1 else ()))

    def _cut(self, x: Shaped[Array, "B T ..."]) -> Shaped[Array, "G R P ..."]:
        rows, length = x.shape[0] // self.rows, x.shape[1] // self.positions
        x = x.reshape(self.rows, rows, self.positions, length, *x.shape[2:])
        return jnp.moveaxis(x, 2, 1).reshape(self.rows * self.positions, rows, length, *x.shape[4:])

    def _pinned(self, x: Shaped[Array, "G ..."]) -> Shaped[Array, "G ..."]:
        spec = PartitionSpec(self._axes, *[PartitionSpec.UNCONSTRAINED] * (x.ndim - 1))
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.layout.mesh, spec))


def shards_of(rows: int, length: int) -> Shards | None:
    """The shards of [rows, length] under the current mesh layout; None where all are on one device."""
    layout = in_force()
    if layout is None:
        return None

    def parts(name: str, size: int) -> int:
        found = layout.parts(name)
        return found if size % found == 0 else 1

    found = Shards(layout, parts("batch", rows), parts("length", length))
    return found if found.rows * found.positions > 1 else None
