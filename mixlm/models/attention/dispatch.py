"""What attention reads, `softmax(scale q k' + bias) v` within who sees whom, by what is best on the device.

`view` is made once for all layers; `mix` reads by it. Numbers that are added to the scores will do on every device and
for every mask and bias. On a TPU, masks alone are left to JAX's splash kernel, on a GPU to cuDNN's flash attention in
bfloat16; neither can learn a bias (T5's relative positions, LTG-BERT's). One that rows share is, on a TPU, for the
resident kernel, as far as the chip's vector memory goes; what is left is added there too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from mixlm.errors import UserError, nearest
from mixlm.models.attention.dot_product import Addend, attend, mask_bias
from mixlm.models.attention.masks import AttentionMask
from mixlm.models.attention.sharded import for_each_part, on_each_device, slopes_on_each_device
from mixlm.models.attention.tpu_biased import fits, resident, resident_slopes
from mixlm.models.attention.tpu_splash import splash
from mixlm.models.matmul import kernel_gradient, matmul
from mixlm.parallel.logical_axes import device_kind, in_force, platform
from mixlm.perf.chips import chip

ATTENTIONS = ("auto", "plain", "recomputed", "splash", "cudnn")
# By the platform that a program is for.
BEST = {"tpu": "splash", "gpu": "cudnn", "cuda": "cudnn"}


@runtime_checkable
class Heads(Protocol):
    """What a way to compute attention must know of a network's heads."""

    @property
    def num_heads(self) -> int:
        """How many there are."""

    @property
    def head_dim(self) -> int:
        """The width of one."""

    @property
    def dtype(self) -> str:
        """The type of activations."""


@struct.dataclass
class Blockwise:
    """A view for the splash kernel, which `interpret` lets run anywhere, slowly."""

    mask: AttentionMask
    interpret: bool = struct.field(pytree_node=False)


@struct.dataclass
class Resident:
    """A view for the resident kernel; the bias is there once for each part that rows are cut into, so that its gradient
    is added up over the layers before it is over the devices. `again` has what it gives made again with its gradient.
    """

    mask: AttentionMask
    bias: Float[Array, "P H T S"] | None
    again: bool = struct.field(pytree_node=False, default=False)
    interpret: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class Fused:
    """A view for cuDNN."""

    mask: Bool[Array, "B 1 T S"]


@struct.dataclass
class Added:
    """Numbers that are added to the scores one by one; the weights are kept for the gradient, or made again."""

    addends: tuple[Addend, ...]
    keep: bool = struct.field(pytree_node=False, default=True)


# A bare array is one addend, [B or 1, H or 1, T, S], without letters: a layer has several, of other lengths.
View = Float[Array, "_ _ _ _"] | Blockwise | Resident | Fused | Added


def check_attention(attention: object) -> None:
    """Raises `UserError` unless `attention` names a way to compute it."""
    if attention not in ATTENTIONS:
        known = ", ".join(ATTENTIONS)
        raise UserError(f"ATTENTION = {attention!r} is none of {known}.{nearest(str(attention), ATTENTIONS)}")


def view_of(mask: AttentionMask, attention: str, dtype: str) -> View:
    """What all layers share to read within `mask`, where no bias is added; `dtype` is that of the activations.

    Raises `UserError` for a way that this platform or type has not.
    """
    found = chosen(attention, platform(), dtype)
    if found == "splash":
        return Blockwise(mask, interpret=platform() != "tpu")
    if found == "cudnn":
        return Fused(mask.dense()[:, None])
    return Added((mask_bias(mask.dense()),), keep=found == "plain")


def biased_view(
    sizes: Heads, mask: AttentionMask, bias: Float[Array, "#B H T S"] | None, attention: str, again: bool = False
) -> View:
    """What all layers share to read within `mask`, where a bias that is learnt may be added; see `Resident.again`.

    On a TPU the best is the resident kernel. Where it cannot do it, the weights are not kept for the gradient, the bias
    is never made for each row, and the mask is made where it is added: all would be read from memory more often than
    anything else.
    """
    best_on_tpu = attention == "auto" and platform() == "tpu"
    if best_on_tpu and _fits(sizes, mask, bias):
        return Resident(mask, None if bias is None else for_each_part(bias, mask), again)
    if bias is None:
        return view_of(mask, attention, sizes.dtype)
    made = mask if platform() == "tpu" else mask_bias(mask.dense())
    return Added((made, bias), keep=not (best_on_tpu or attention == "recomputed"))


def _fits(sizes: Heads, mask: AttentionMask, bias: Float[Array, "#B H T S"] | None) -> bool:
    """Whether each device's part of the heads and queries fits the resident kernel, which has one bias for all rows."""
    if bias is not None and bias.shape[0] > 1:
        return False
    on, layout = chip(device_kind()), in_force()
    heads, queries, keys = sizes.num_heads, mask.limits.shape[1], mask.key_segments.shape[1]
    if layout is not None:
        heads = layout.cut(("heads",), (heads,))[0]
        queries = layout.cut(("length",), (queries,))[0]
    memory, size = 0.0 if on is None else on.vector_memory, jnp.dtype(sizes.dtype).itemsize
    return fits(memory, heads, queries, keys, sizes.head_dim, size, biased=bias is not None)


def chosen(attention: str, on: str, dtype: str) -> str:
    """The way to compute attention on a platform; raises `UserError` where a way that was asked for is not to be had.

    The splash kernel runs interpreted on a CPU, for tests.
    """
    is_gpu = BEST.get(on) == "cudnn"
    if attention == "auto":
        best = BEST.get(on, "plain")
        return "plain" if best == "cudnn" and dtype != "bfloat16" else best
    if attention == "cudnn" and not is_gpu:
        raise UserError(f"ATTENTION = 'cudnn' needs a GPU, and this program is for a {on}: leave it 'auto'.")
    if attention == "cudnn" and dtype != "bfloat16":
        raise UserError(f"ATTENTION = 'cudnn' needs DTYPE = 'bfloat16', got {dtype!r}: leave it 'auto'.")
    if attention == "splash" and is_gpu:
        raise UserError("ATTENTION = 'splash' needs a TPU, and this program is for a GPU: leave it 'auto'.")
    return attention


def mix(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    view: View,
    *,
    scale: float = 1.0,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "B T J"]:
    """What attention reads, with the heads joined; the softmax is in float32.

    Unless the view is a bare array, `drop` has the same noise for all queries, and values are dropped, as if the
    weights on them had been.
    """
    if isinstance(view, Blockwise):
        kernel = partial(splash, interpret=view.interpret)
        mixed = on_each_device(kernel, q * scale, k, dropped(v, drop), view.mask).swapaxes(1, 2)
    elif isinstance(view, Resident):
        kernel = partial(resident, scale=scale, interpret=view.interpret)
        mixed = on_each_device(kernel, q, k, dropped(v, drop), view.mask, view.bias).swapaxes(1, 2)
    elif isinstance(view, Fused):
        rows, keys, values = (x.swapaxes(1, 2) for x in (q, k, dropped(v, drop)))
        mixed = jax.nn.dot_product_attention(rows, keys, values, mask=view.mask, scale=scale, implementation="cudnn")
    elif isinstance(view, Added):
        mixed = attend(q, k, dropped(v, drop), view.addends, scale, view.keep).swapaxes(1, 2)
    elif drop is None:
        mixed = attend(q, k, v, (view,), scale, True).swapaxes(1, 2)
    else:
        scores = jnp.einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.float32)
        weights = drop(jax.nn.softmax(scores * scale + view, axis=-1).astype(v.dtype))
        mixed = jnp.einsum("bhts,bhsk->bthk", weights, v)
    return mixed.reshape(*mixed.shape[:2], -1)


def mix_product(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    view: View,
    kernel: Float[Array, "J D"],
    *,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "B T D"]:
    """`mix(q, k, v, view) @ kernel`, for whose gradient what is mixed is made again where the view has it so."""
    if not isinstance(view, Resident) or not view.again:
        return matmul(mix(q, k, v, view, drop=drop), kernel)
    return _mixed_again(view.interpret, q, k, dropped(v, drop), view.mask, view.bias, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mixed_again(interpret: bool, *given: Any) -> Array:
    return _again_forward(interpret, *given)[0]


def _again_forward(interpret: bool, *given: Any) -> Any:
    q, k, v, mask, bias, kernel = given
    return jnp.dot(mix(q, k, v, Resident(mask, bias, interpret=interpret)), kernel), given


def _again_backward(interpret: bool, kept: Any, given: Array) -> Any:
    q, k, v, mask, bias, kernel = kept
    of_mixed = jnp.dot(given, kernel.T).reshape(*q.shape[::2], *q.shape[1::2]).swapaxes(1, 2)
    run = partial(resident_slopes, interpret=interpret)
    mixed, of_q, of_k, of_v, *of_bias = slopes_on_each_device(run, q, k, v, of_mixed, mask, bias)
    joined = mixed.swapaxes(1, 2).reshape(*given.shape[:2], -1)
    return of_q, of_k, of_v, None, of_bias[0] if of_bias else None, kernel_gradient(joined, given)


_mixed_again.defvjp(_again_forward, _again_backward)


def dropped(v: Float[Array, "B H S K"], drop: Callable[[Array], Array] | None) -> Float[Array, "B H S K"]:
    """The values times what `drop` makes of the weights on them, which is the same for all queries."""
    if drop is None:
        return v
    factors = drop(jnp.ones((*v.shape[:2], 1, v.shape[2]), v.dtype))
    return v * jnp.broadcast_to(factors.swapaxes(2, 3), v.shape)
