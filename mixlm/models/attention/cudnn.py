"""Attention by cuDNN's flash kernel for GPUs, through `jax.nn.dot_product_attention`: no scores in memory.

Its limits, by JAX 0.11: 16-bit dtypes, heads whose width is a multiple of 8 and at most 256 (128 before Hopper), and
even lengths where there is a mask and a gradient. A mask is read as an added array of the size of one head's scores.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mixlm.models.attention.tpu_splash import filled

WIDTHS, WIDEST = 8, 256


def takes(width: int) -> bool:
    """True for a width of heads that there is a kernel for."""
    return width % WIDTHS == 0 and width <= WIDEST


def cudnn(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    mask: Bool[Array, "B 1 T S"],
    scale: float,
) -> Float[Array, "B H T K"]:
    """`softmax(scale q k') v` within `mask`; an odd length is filled up with one more position, which nothing reads."""
    length = q.shape[2]
    rows, keys, values = (filled(x, 2, 2).swapaxes(1, 2) for x in (q, k, v))
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, length % 2), (0, k.shape[2] % 2)))
    out = jax.nn.dot_product_attention(rows, keys, values, mask=mask, scale=scale, implementation="cudnn")
    return out.swapaxes(1, 2)[:, :, :length]
