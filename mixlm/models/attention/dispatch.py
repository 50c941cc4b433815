"""Attention dispatch: masked `softmax(scale q k' + bias) v` by the implementation that is best on the device.

A view, made once for all layers, holds mask and bias in the form of one implementation, and `attention` runs it:
- AdditiveView, plain XLA: mask and bias are added to the scores; any device, any bias.
- SplashView, JAX's splash kernel on TPUs, and CudnnView, cuDNN's flash attention on GPUs in bfloat16: a mask alone,
  since neither can train a bias (T5's and LTG-BERT's relative positions).
- VmemView, our TPU kernel with a trainable bias that rows share, as far as the chip's vector memory goes.
Kernels are tested in interpret mode, and prove themselves on the device that they first run on (see `proof`): one that
differs from plain attention there is left out with a warning, or is an error where it was asked for by name.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from mixlm.errors import UserError
from mixlm.models.attention.choice import ATTENTIONS, implementation
from mixlm.models.attention.cudnn import cudnn
from mixlm.models.attention.dot_product import Addend, attend, mask_bias
from mixlm.models.attention.masks import AttentionMask
from mixlm.models.attention.proof import Kernel, how_it_differs
from mixlm.models.attention.sharded import bias_per_shard, gradients_on_each_device, on_each_device
from mixlm.models.attention.tpu_biased import fits, heads_per_program, resident, resident_gradients
from mixlm.models.attention.tpu_splash import splash
from mixlm.models.matmul import kernel_gradient, matmul
from mixlm.parallel.logical_axes import device_kind, in_force, platform
from mixlm.perf.chips import chip
from mixlm.perf.kernel_proofs import warn


@runtime_checkable
class Heads(Protocol):
    """The fields of a network that dispatch depends on."""

    @property
    def num_heads(self) -> int:
        """The number of attention heads."""

    @property
    def head_dim(self) -> int:
        """The width of a head."""

    @property
    def dtype(self) -> str:
        """The dtype of activations."""


@struct.dataclass
class SplashView:
    """A mask for the splash kernel; `interpret` runs it on any device, slowly."""

    mask: AttentionMask
    interpret: bool = struct.field(pytree_node=False)


@struct.dataclass
class VmemView:
    """Mask and bias for the VMEM-resident kernel.

    There is one copy of the bias per shard of rows, so that its gradient is summed over layers before devices.
    `recompute` drops the kernel's output after the forward pass, and computes it again along with the gradient.
    """

    mask: AttentionMask
    bias: Float[Array, "P H T S"] | None
    recompute: bool = struct.field(pytree_node=False, default=False)
    interpret: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class CudnnView:
    """A mask for cuDNN's flash attention."""

    mask: Bool[Array, "B 1 T S"]


@struct.dataclass
class AdditiveView:
    """Terms added to the scores one by one; `keep` saves the weights for the gradient instead of recomputing them."""

    addends: tuple[Addend, ...]
    keep: bool = struct.field(pytree_node=False, default=True)


# A bare array is one addend, [B or 1, H or 1, T, S]; no letters, since a layer has several of different lengths.
View = Float[Array, "_ _ _ _"] | SplashView | VmemView | CudnnView | AdditiveView


def make_view(sizes: Heads, mask: AttentionMask, attention: str) -> View:
    """The view of all layers for a mask alone.

    Raises `UserError` for an implementation that the platform, the dtype or the width of heads rules out, and for one
    that was asked for by name and differs on this device.
    """
    found = implementation(attention, platform(), sizes.dtype, sizes.head_dim)
    if found in RUNS and not _trusted(found, sizes, mask, None, attention):
        found = "plain"
    if found == "splash":
        return SplashView(mask, interpret=platform() != "tpu")
    if found == "cudnn":
        return CudnnView(mask.dense()[:, None])
    return AdditiveView((mask_bias(mask.dense()),), keep=found == "plain")


def make_biased_view(
    sizes: Heads, mask: AttentionMask, bias: Float[Array, "#B H T S"] | None, attention: str, recompute: bool = False
) -> View:
    """The view of all layers for a mask and a trainable bias, if there is one; for `recompute` see `VmemView`.

    On a TPU the first choice is the VMEM-resident kernel. Where it does not fit, the weights are recomputed for the
    gradient, the bias is not broadcast over rows, and the mask stays compact until it is added: memory traffic of the
    size of the scores would dominate.
    """
    best_on_tpu = attention == "auto" and platform() == "tpu"
    if best_on_tpu and _fits(sizes, mask, bias) and _trusted("resident", sizes, mask, bias, attention):
        return VmemView(mask, None if bias is None else bias_per_shard(bias, mask), recompute)
    if bias is None:
        return make_view(sizes, mask, attention)
    made = mask if platform() == "tpu" else mask_bias(mask.dense())
    return AdditiveView((made, bias), keep=not (best_on_tpu or attention == "recomputed"))


def _fits(sizes: Heads, mask: AttentionMask, bias: Float[Array, "#B H T S"] | None) -> bool:
    """True where each device's heads and queries fit the VMEM-resident kernel, which takes one bias for all rows."""
    if bias is not None and bias.shape[0] > 1:
        return False
    on, layout = chip(device_kind()), in_force()
    heads, queries, keys = sizes.num_heads, mask.limits.shape[1], mask.key_segments.shape[1]
    if layout is not None:
        heads = layout.cut(("heads",), (heads,))[0]
        queries = layout.cut(("length",), (queries,))[0]
    memory, size = 0.0 if on is None else on.vector_memory, jnp.dtype(sizes.dtype).itemsize
    return fits(memory, heads, queries, keys, sizes.head_dim, size, biased=bias is not None)


def _trusted(name: str, sizes: Heads, mask: AttentionMask, bias: Float[Array, "#B H T S"] | None, asked: str) -> bool:
    """True for a kernel that is right on this device; there is nothing to compare on a CPU, nor without the device.

    Raises `UserError` for one that differs and was asked for by name.
    """
    layout = in_force()
    device = jax.devices()[0] if layout is None else layout.mesh.devices.flat[0]
    if platform() == "cpu" or device not in jax.devices():
        return True
    queries, keys = mask.limits.shape[1], mask.key_segments.shape[1]
    if keys == 1:  # As where parameters are initialised: one key has weight one, and no kernel is worth its proof.
        return False
    heads = heads_per_program(sizes.num_heads, sizes.head_dim) if name == "resident" else min(sizes.num_heads, 2)
    kernel = Kernel(name, sizes.dtype, heads, sizes.head_dim, queries, keys, bias is not None)
    found = how_it_differs(kernel, RUNS[name])
    if found and asked != "auto":
        raise UserError(f"ATTENTION = {asked!r}: {found}; leave it 'auto', which is plain attention there.")
    if found:
        forced = f", and ATTENTION = {name!r} would make this an error" if name in ATTENTIONS else ""
        warn(f"{found}: attention is plain instead{forced}.")
    return not found


# Kernels at a scale of one, by name, for `proof`: (q, k, v, mask, bias or None) -> [B, H, T, K].
RUNS: dict[str, Callable[..., Array]] = {
    "splash": lambda q, k, v, mask, bias: splash(q, k, v, mask, interpret=jax.default_backend() != "tpu"),
    "cudnn": lambda q, k, v, mask, bias: cudnn(q, k, v, mask.dense()[:, None], 1.0),
    "resident": lambda q, k, v, mask, bias: resident(q, k, v, mask, bias, interpret=jax.default_backend() != "tpu"),
}


def attention(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    view: View,
    *,
    scale: float = 1.0,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "B T J"]:
    """Attention's output with the heads joined; the softmax is in float32.

    `drop` is dropout of the weights. Unless the view is a bare array, its noise is the same for all queries, and it is
    applied to the values, which is equivalent.
    """
    if isinstance(view, SplashView):
        kernel = partial(splash, interpret=view.interpret)
        out = on_each_device(kernel, q * scale, k, dropped(v, drop), view.mask).swapaxes(1, 2)
    elif isinstance(view, VmemView):
        kernel = partial(resident, scale=scale, interpret=view.interpret)
        out = on_each_device(kernel, q, k, dropped(v, drop), view.mask, view.bias).swapaxes(1, 2)
    elif isinstance(view, CudnnView):
        out = cudnn(q, k, dropped(v, drop), view.mask, scale).swapaxes(1, 2)
    elif isinstance(view, AdditiveView):
        out = attend(q, k, dropped(v, drop), view.addends, scale, view.keep).swapaxes(1, 2)
    elif drop is None:
        out = attend(q, k, v, (view,), scale, True).swapaxes(1, 2)
    else:
        scores = jnp.einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.float32)
        weights = drop(jax.nn.softmax(scores * scale + view, axis=-1).astype(v.dtype))
        out = jnp.einsum("bhts,bhsk->bthk", weights, v)
    return out.reshape(*out.shape[:2], -1)  # [B, T, H, K] -> [B, T, J]


def attention_matmul(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    view: View,
    kernel: Float[Array, "J D"],
    *,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "B T D"]:
    """`attention(q, k, v, view) @ kernel`; with `view.recompute` its gradient recomputes the attention's output."""
    if not isinstance(view, VmemView) or not view.recompute:
        return matmul(attention(q, k, v, view, drop=drop), kernel)
    return _recomputed(view.interpret, q, k, dropped(v, drop), view.mask, view.bias, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recomputed(interpret: bool, *given: Any) -> Array:
    return _recomputed_forward(interpret, *given)[0]


def _recomputed_forward(interpret: bool, *given: Any) -> Any:
    q, k, v, mask, bias, kernel = given
    return jnp.dot(attention(q, k, v, VmemView(mask, bias, interpret=interpret)), kernel), given


def _recomputed_backward(interpret: bool, kept: Any, given: Array) -> Any:
    q, k, v, mask, bias, kernel = kept
    # [B, T, D] -> [B, T, J] -> [B, T, H, K] -> [B, H, T, K]
    dout = jnp.dot(given, kernel.T).reshape(*q.shape[::2], *q.shape[1::2]).swapaxes(1, 2)
    run = partial(resident_gradients, interpret=interpret)
    out, dq, dk, dv, *dbias = gradients_on_each_device(run, q, k, v, dout, mask, bias)
    joined = out.swapaxes(1, 2).reshape(*given.shape[:2], -1)  # [B, T, J]
    return dq, dk, dv, None, dbias[0] if dbias else None, kernel_gradient(joined, given)


_recomputed.defvjp(_recomputed_forward, _recomputed_backward)


def dropped(v: Float[Array, "B H S K"], drop: Callable[[Array], Array] | None) -> Float[Array, "B H S K"]:
    """Values scaled by the dropout mask of their weights, which is the same for all queries."""
    if drop is None:
        return v
    factors = drop(jnp.ones((*v.shape[:2], 1, v.shape[2]), v.dtype))
    return v * jnp.broadcast_to(factors.swapaxes(2, 3), v.shape)
