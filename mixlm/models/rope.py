"""Rotary position embeddings (RoFormer, arXiv 2104.09864): scores depend on relative positions alone."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mixlm.errors import UserError

Rotation = tuple[Float[Array, "#B 1 T K"], Float[Array, "#B 1 T K"]]


def check_rope(head_dim: int, theta: float) -> None:
    """Raises `UserError` for an odd head width, or a base that is not above one."""
    if head_dim % 2:
        raise UserError(f"head_dim = {head_dim} must be even for rotary positions, which rotate pairs of features.")
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not theta > 1:
        raise UserError(f"rope_theta = {theta!r} must be a number above one.")


def rotation(positions: Int[Array, "#B T"], head_dim: int, theta: float) -> Rotation:
    """Float32 cosines and sines of the angles `position * theta^(-2i/K)`, repeated for both halves of a head."""
    frequencies = (float(theta) ** -(np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
    angles = positions[:, None, :, None].astype(jnp.float32) * frequencies.reshape(1, 1, 1, -1)
    angles = jnp.concatenate([angles, angles], axis=-1)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "B H T K"], turn: Rotation) -> Float[Array, "B H T K"]:
    """Rotates the pairs (i, i + K/2) of every head, in float32: `x cos + (-x_second, x_first) sin`."""
    cosines, sines = turn
    wide = x.astype(jnp.float32)
    first, second = jnp.split(wide, 2, axis=-1)
    return (wide * cosines + jnp.concatenate([-second, first], axis=-1) * sines).astype(x.dtype)
