"""A Pallas TPU kernel for attention with a trainable bias shared by rows; scores stay in vector memory (VMEM).

Library kernels read such a bias, and write its gradient, once per row. Here a grid program holds a few heads of one
row: all keys, and one block of queries after another. The row is the inner grid axis, so a bias is read once for all
rows, and its gradient accumulates in place. Heads lie side by side, as projections produce them, and fill whole lanes.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from mixlm.models.attention.dot_product import KEPT, MASKED
from mixlm.models.attention.masks import AttentionMask

LANES, SUBLANES = 128, 8
# Ours: queries per block, whose scores with all keys are in memory at once; and the blocks that a program unrolls,
# beyond which it takes a minute to compile.
QUERIES, BLOCKS = 256, 4
# Ours: the fraction of the vector memory for a kernel; the compiler prefetches into the rest.
SHARE = 0.75


class _Setting(NamedTuple):
    heads: int
    scale: float
    interpret: bool


def resident(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    mask: AttentionMask,
    bias: Float[Array, "1 H T S"] | None = None,
    *,
    scale: float = 1.0,
    interpret: bool = False,
) -> Float[Array, "B H T K"]:
    """`softmax(scale q k' + bias) v` within `mask`, the softmax in float32.

    The gradient is that of `attend`, from q, k and v alone. `interpret` runs the kernel on any device, slowly.
    """
    setting = _Setting(q.shape[1], scale, interpret)
    out = _attend(*map(_joined, (q, k, v)), bias, mask, setting)
    return _split(checkpoint_name(out, KEPT), q.shape[1])


def resident_gradients(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    given: Float[Array, "B H T K"],
    mask: AttentionMask,
    bias: Float[Array, "1 H T S"] | None = None,
    *,
    interpret: bool = False,
) -> tuple[Any, ...]:
    """The output of `resident` at a scale of one, recomputed, and its gradients for q, k, v and the bias."""
    sequences, setting = [*map(_joined, (q, k, v, given))], _Setting(q.shape[1], 1.0, interpret)
    found, dbias = _gradients(setting, sequences, bias, mask, again=True)
    return (*(_split(x, q.shape[1]) for x in found), *dbias)


def _joined(x: Float[Array, "B H T K"]) -> Float[Array, "B T J"]:
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def _split(x: Float[Array, "B T J"], heads: int) -> Float[Array, "B H T K"]:
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def heads_per_program(heads: int, width: int) -> int:
    """The number of heads of this width in one program: the fewest that fill whole lanes, else all."""
    return next((some for some in range(1, heads) if heads % some == 0 and some * width % LANES == 0), heads)


def fits(memory: float, heads: int, queries: int, keys: int, width: int, size: int, *, biased: bool) -> bool:
    """True where a chip's vector memory, in bytes, suffices for the kernel with these shapes; see `vector_memory`."""
    needed = vector_memory(heads, queries, keys, width, size, biased=biased)
    return queries <= BLOCKS * QUERIES and needed <= SHARE * memory


def vector_memory(heads: int, queries: int, keys: int, width: int, size: int, *, biased: bool) -> int:
    """Bytes of vector memory of the backward kernel, the larger one, with activations of `size` bytes.

    Inputs and outputs are double-buffered: four arrays of queries, four of keys, the bias and its gradient. A block's
    scores take eight float32 arrays, or twelve where products have float32 operands, which are split: ours, from what
    the compiler asked for.
    """
    some = heads_per_program(heads, width)
    lanes, biases = max(some * width, LANES), some * queries * keys if biased else 0
    moved = size * (4 * queries + 4 * keys) * lanes + 4 * 2 * biases
    return 2 * moved + 4 * 2 * keys * lanes + 4 * (4 + 2 * size) * min(queries, QUERIES) * keys


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    q: Float[Array, "B T J"],
    k: Float[Array, "B S J"],
    v: Float[Array, "B S J"],
    bias: Float[Array, "1 H T S"] | None,
    mask: AttentionMask,
    setting: _Setting,
) -> Float[Array, "B T J"]:
    return _forward(q, k, v, bias, mask, setting)[0]


def _forward(q: Any, k: Any, v: Any, bias: Any, mask: AttentionMask, setting: _Setting) -> Any:
    (out,) = _call(_forward_kernel, 2, (q, k, v), bias, mask, (q,), setting)
    return out, (q, k, v, bias, mask)


def _backward(setting: _Setting, kept: Any, given: Any) -> Any:
    q, k, v, bias, mask = kept
    found, dbias = _gradients(setting, [q, k, v, given], bias, mask, again=False)
    return *found, dbias[0] if dbias else None, None


_attend.defvjp(_forward, _backward)


def _gradients(setting: _Setting, given: list[Any], bias: Any, mask: AttentionMask, *, again: bool) -> Any:
    """([the output, with `again`, and the gradients for q, k and v], [the gradient for the bias, if there is one])."""
    sequences = [given[0]] * again + given[:3]
    biases = [] if bias is None else [jax.ShapeDtypeStruct(bias.shape, jnp.float32)]
    kernel, products = partial(_gradient_kernel, again), 5 + again
    found = _call(kernel, products, given, bias, mask, [*sequences, *biases], setting)
    return found[: len(sequences)], [x.astype(bias.dtype) for x in found[len(sequences) :]]


def _call(
    kernel: Any, products: int, sequences: Any, bias: Any, mask: AttentionMask, outputs: Any, setting: _Setting
) -> Any:
    """Runs a kernel of `products` matrix products over the grid of heads and rows; `outputs` are shapes and dtypes."""
    # Pallas is slow to import, and only TPU programs need it.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu

    (rows, queries, joined), keys = sequences[0].shape, sequences[1].shape[1]
    width = joined // setting.heads
    some = heads_per_program(setting.heads, width)

    def block(x: Any) -> Any:
        if x.ndim == 4:
            return pl.BlockSpec((1, some, *x.shape[2:]), lambda head, row: (0, head, 0, 0))
        return pl.BlockSpec((1, x.shape[1], some * width), lambda head, row: (row, 0, head))

    numbers = [x[:, None] for x in mask]
    of_row = [pl.BlockSpec((1, *x.shape[1:]), lambda head, row: (row, 0, 0)) for x in numbers]
    arrays = [*sequences, *(() if bias is None else (bias,))]
    inputs = [*numbers, *arrays]
    scores = rows * setting.heads * queries * keys
    size = sequences[0].dtype.itemsize
    needed = vector_memory(setting.heads, queries, keys, width, size, biased=bias is not None)
    call = pl.pallas_call(
        lambda *refs: kernel(some, setting.scale, refs[: len(inputs)], refs[len(inputs) :]),
        grid=(setting.heads // some, rows),
        in_specs=[*of_row, *map(block, arrays)],
        out_specs=list(map(block, outputs)),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
        cost_estimate=pl.CostEstimate(
            flops=products * 2 * scores * width,
            transcendentals=scores,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in [*inputs, *outputs]),
        ),
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=max(needed, 2**24)
        ),
        interpret=setting.interpret,
    )
    # Within jit, JAX eliminates an unused call; a bare pallas_call would stay.
    return jax.jit(call)(*inputs)


def _forward_kernel(some: int, scale: float, inputs: Any, outputs: Any) -> None:
    *mask, q, k, v = inputs[:6]
    for part in _parts(q):
        seen = _seen(part, *mask)
        for head, lanes in _heads(some, q):
            bias = [x[0, head, part] for x in inputs[6:]]
            weights, total = _weights(q[0, part, lanes], k[0, :, lanes], bias, seen, scale)
            outputs[0][0, part, lanes] = _mixed(weights, total, v[0, :, lanes])


def _gradient_kernel(again: bool, some: int, scale: float, inputs: Any, outputs: Any) -> None:
    from jax.experimental import pallas as pl

    *mask, q, k, v, given = inputs[:7]
    out, (dq, dk, dv, *dbias) = outputs[: int(again)], outputs[int(again) :]
    for x in dbias:

        @pl.when(pl.program_id(1) == 0)
        def _clear(x: Any = x) -> None:
            x[...] = jnp.zeros_like(x)

    sums: dict[int, Any] = {}
    for part in _parts(q):
        seen = _seen(part, *mask)
        for head, lanes in _heads(some, q):
            queries, keys = q[0, part, lanes], k[0, :, lanes]
            bias = [x[0, head, part] for x in inputs[7:]]
            with jax.named_scope("rematted_computation"):
                weights, total = _weights(queries, keys, bias, seen, scale)
                for x in out:
                    x[0, part, lanes] = _mixed(weights, total, v[0, :, lanes])
            dout = (given[0, part, lanes].astype(jnp.float32) / total).astype(v.dtype)
            dweights = _product(dout, v[0, :, lanes], 1, 1)
            delta = jnp.sum(weights * dweights, axis=1, keepdims=True) / total
            dscores = weights * (dweights - delta)
            for x in dbias:
                x[0, head, part] += dscores
            dscores = dscores.astype(v.dtype)
            dq[0, part, lanes] = (_product(dscores, keys, 1, 0) * scale).astype(q.dtype)
            found = _product(dscores, queries, 0, 0) * scale, _product(weights.astype(v.dtype), dout, 0, 0)
            sums[head] = found if head not in sums else tuple(map(jnp.add, sums[head], found))
    for head, lanes in _heads(some, q):
        dk[0, :, lanes], dv[0, :, lanes] = (x.astype(k.dtype) for x in sums[head])


def _parts(q: Any) -> list[slice]:
    return [slice(start, min(start + QUERIES, q.shape[1])) for start in range(0, q.shape[1], QUERIES)]


def _heads(some: int, q: Any) -> list[tuple[int, slice]]:
    width = q.shape[2] // some
    return [(head, slice(head * width, (head + 1) * width)) for head in range(some)]


def _seen(part: slice, limits: Any, segments: Any, key_segments: Any) -> Any:
    """The dense mask of these queries."""
    last, own, keys = _column(limits[0, :, part]), _column(segments[0, :, part]), key_segments[0]
    places = jax.lax.broadcasted_iota(jnp.int32, (last.shape[0], keys.shape[1]), 1)
    return (places <= last) & (own == keys) & (own > 0)


def _column(row: Any) -> Any:
    # Mosaic transposes whole tiles only.
    return jnp.broadcast_to(row, (SUBLANES, row.shape[1])).T[:, :1]


def _weights(q: Any, k: Any, bias: Any, seen: Any, scale: float) -> tuple[Any, Any]:
    """(exp(score - max), its sum per query)."""
    scores = sum(bias, _product(q, k, 1, 1) * scale)
    # The value that `attend` adds too: a query without keys attends uniformly.
    scores = jnp.where(seen, scores, MASKED)
    weights = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
    return weights, jnp.sum(weights, axis=1, keepdims=True)


def _mixed(weights: Any, total: Any, v: Any) -> Any:
    return (_product(weights.astype(v.dtype), v, 1, 0) / total).astype(v.dtype)


def _product(a: Any, b: Any, of_a: int, of_b: int) -> Any:
    return jax.lax.dot_general(a, b, (((of_a,), (of_b,)), ((), ())), preferred_element_type=jnp.float32)
