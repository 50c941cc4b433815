"""Attention kernels under shard_map, on each device's rows, heads and queries: XLA cannot partition a kernel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mixlm.models.attention.masks import AttentionMask
from mixlm.parallel.logical_axes import Layout, in_force, not_cut

# The logical axes of a bias with one copy per shard of rows.
BIAS = ("batch", "heads", "length", None)


def bias_per_shard(bias: Float[Array, "1 H T S"], mask: AttentionMask) -> Float[Array, "P H T S"]:
    """A bias that rows share, broadcast to one copy per shard of rows."""
    layout = in_force()
    if layout is None or not_cut():
        return bias
    rows = mask.limits.shape[0]
    parts = rows // layout.cut(("batch",), (rows,))[0]
    return layout.pinned(jnp.broadcast_to(bias, (parts, *bias.shape[1:])), BIAS)


def on_each_device(
    kernel: Callable[..., Float[Array, "B H T K"]],
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    mask: AttentionMask,
    bias: Float[Array, "P H T S"] | None = None,
) -> Float[Array, "B H T K"]:
    """`kernel(q, k, v, mask, bias)` on each device; without the bias where there is none."""
    layout, biases = in_force(), () if bias is None else (bias,)
    if layout is None or not_cut():
        return kernel(q, k, v, mask, *biases)
    queries, keys, *rest = _specs(layout, q, k, mask, *biases)
    return _cut(kernel, layout, (queries, keys, keys, *rest), queries)(q, k, v, mask, *biases)


def gradients_on_each_device(
    kernel: Callable[..., tuple[Any, ...]],
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    given: Float[Array, "B H T K"],
    mask: AttentionMask,
    bias: Float[Array, "P H T S"] | None = None,
) -> tuple[Any, ...]:
    """`kernel(q, k, v, given, mask, bias)` on each device: the output, and gradients for q, k, v and bias."""
    layout, biases = in_force(), () if bias is None else (bias,)
    if layout is None or not_cut():
        return kernel(q, k, v, given, mask, *biases)
    queries, keys, *rest = _specs(layout, q, k, mask, *biases)

    def own(*arrays: Any) -> Any:
        out, dq, dk, dv, *dbias = kernel(*arrays)
        if queries[2] is not None:
            dk, dv = jax.lax.psum((dk, dv), queries[2])
        return out, dq, dk, dv, *dbias

    outputs = (queries, queries, keys, keys, *rest[1:])
    return _cut(own, layout, (queries, keys, keys, queries, *rest), outputs)(q, k, v, given, mask, *biases)


def _specs(layout: Layout, q: Array, k: Array, mask: AttentionMask, *biases: Array) -> tuple[Any, ...]:
    """Partition specs of queries, keys, mask and bias."""
    limits: Any = layout.spec(("batch", "length"), mask.limits.shape)
    segments: Any = layout.spec(("batch", None), mask.key_segments.shape)
    return (
        layout.spec(("batch", "heads", "length", "kv"), q.shape),
        layout.spec(("batch", "heads", None, "kv"), k.shape),
        AttentionMask(limits, limits, segments),
        *(layout.spec(BIAS, x.shape) for x in biases),
    )


def _cut(function: Callable[..., Any], layout: Layout, inputs: Any, outputs: Any) -> Callable[..., Any]:
    return jax.shard_map(function, mesh=layout.mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
