"""Kernels of attention prove themselves: forward and gradient on a small example against plain attention in float32.

The error of an array is `||found - wanted|| / ||wanted||`, the wanted one from plain attention in float32 at the
highest precision. A kernel may be `FACTOR` times as far off as plain attention itself is in the kernel's dtype.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixlm.models.attention.dot_product import attend, mask_bias
from mixlm.models.attention.masks import AttentionMask, cross_mask, self_mask
from mixlm.perf.kernel_proofs import difference

# Ours: a kernel adds up in another order and may round weights once more; a wrong mask or scale is off by tenths.
FACTOR = 4.0
FLOOR = {"float32": 1e-6}
LOW_FLOOR = 2e-3  # of 16-bit dtypes: a quarter of bfloat16's rounding
ROWS = 3
# Ours: an example stands for the lengths whose blocks are alike, so that evaluation, with its many lengths, compares
# few: in whole LANES or not, even or odd, and beyond LONGEST by how far above a multiple of BLOCK they are.
LANES, BLOCK, LONGEST, SHORT = 128, 512, 1024, 28

Run = Callable[..., Any]  # (q, k, v, mask, bias or None) -> [B, H, T, K], at a scale of one


class Kernel(NamedTuple):
    """The values that a kernel's code depends on; `heads` are those of the example."""

    name: str
    dtype: str
    heads: int
    width: int
    queries: int
    keys: int
    biased: bool

    def cut(self) -> "Kernel":
        """The kernel at the lengths of the example."""
        return self._replace(queries=_cut(self.queries), keys=_cut(self.keys))

    def __str__(self) -> str:
        what = "bias" if self.biased else "mask"
        sizes = f"{self.queries} x {self.keys} positions, {self.heads} heads of {self.width}"
        return f"{self.name} attention, {self.dtype}, {what}, {sizes}"


def how_it_differs(kernel: Kernel, run: Run) -> str:
    """A sentence about how a kernel differs on this device, "" where it does not; see `perf.kernel_proofs`."""
    small = kernel.cut()
    found = difference(str(small), lambda: compared(small, run))
    return "" if not found else f"{small} {found} on {jax.local_devices()[0].device_kind} with JAX {jax.__version__}"


def compared(kernel: Kernel, run: Run) -> str:
    """The arrays of a kernel that are too far off, "" where none is."""
    inputs, mask, weights = _example(kernel)
    exact = tuple(x.astype(jnp.float32) for x in inputs)
    with jax.default_matmul_precision("highest"):
        wanted = _slopes(_plain, exact, mask, weights)
    own = _errors(_slopes(_plain, inputs, mask, weights), wanted)
    found = _errors(_slopes(run, inputs, mask, weights), wanted)
    floor = FLOOR.get(kernel.dtype, LOW_FLOOR)
    bad = {name: error for name, error in found.items() if not error <= FACTOR * own[name] + floor}
    if not bad:
        return ""
    name = max(bad, key=lambda each: np.nan_to_num(bad[each], nan=np.inf))
    return f"differs: its {name} is {bad[name]:.2g} off in norm, where {FACTOR * own[name] + floor:.2g} is allowed"


def _cut(length: int) -> int:
    """The length of the example that stands for this one."""
    whole = -(-length // LANES) * LANES
    whole = whole if whole <= LONGEST else LONGEST + whole % BLOCK
    return whole if length % LANES == 0 else whole - SHORT - length % 2


def _example(kernel: Kernel) -> tuple[tuple[Any, ...], AttentionMask, Any]:
    """(Queries, keys, values and the bias), rows of every kind of mask, and what the output is multiplied by."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    _, _, heads, width, queries, keys, biased = kernel
    arrays = [drawn(ROWS, heads, length, width) for length in (queries, keys, keys)]
    arrays[0] *= width**-0.5
    inputs = [jnp.asarray(x, kernel.dtype) for x in arrays]
    inputs += [jnp.asarray(drawn(1, heads, queries, keys))] if biased else []
    return tuple(inputs), _mask(queries, keys), jnp.asarray(drawn(ROWS, heads, queries, width))


def _mask(queries: int, keys: int) -> AttentionMask:
    """A causal row; packed documents, the first with a prefix, and padding; a row in both directions with padding."""

    def segments(length: int) -> Any:
        places = np.arange(length)
        packed = np.where(places < length - length // 8, 1 + (places >= length // 3), 0)
        return np.stack([np.ones(length), packed, places < max(length - length // 4, 1)]).astype(np.int32)

    if queries != keys:
        return cross_mask(jnp.asarray(segments(queries)), jnp.asarray(segments(keys)))
    steps = np.ones((ROWS, queries), np.int32)
    steps[1, : queries // 6], steps[2] = 0, 0
    return self_mask(jnp.asarray(steps), jnp.asarray(segments(queries)))


def _plain(q: Any, k: Any, v: Any, mask: AttentionMask, bias: Any) -> Any:
    return attend(q, k, v, (mask_bias(mask.dense()), *(() if bias is None else (bias,))), 1.0, True)


def _slopes(run: Run, inputs: tuple[Any, ...], mask: AttentionMask, weights: Any) -> dict[str, Any]:
    """The output where queries are no padding, and the gradients of its weighted sum."""

    def loss(inputs: tuple[Any, ...], mask: AttentionMask, weights: Any) -> Any:
        q, k, v, *bias = inputs
        out = run(q, k, v, mask, bias[0] if bias else None).astype(jnp.float32)
        out = jnp.where((mask.query_segments > 0)[:, None, :, None], out, 0.0)
        return jnp.sum(out * weights), out

    gradients, out = jax.jit(jax.grad(loss, has_aux=True))(inputs, mask, weights)
    names = ("gradient for queries", "gradient for keys", "gradient for values", "gradient for the bias")
    return {"output": out, **dict(zip(names, gradients))}


def _errors(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, float]:
    def distance(a: Any, b: Any) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-30)

    return {name: distance(found[name], wanted[name]) for name in wanted}
