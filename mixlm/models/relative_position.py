"""Bucketed relative positions, exact when near and logarithmic when far: T5's trainable bias, DeBERTa's embeddings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mixlm.errors import UserError
from mixlm.models.attention.dispatch import View, make_biased_view
from mixlm.models.attention.dot_product import mask_bias
from mixlm.models.attention.masks import AttentionMask
from mixlm.models.kv_cache import Cache
from mixlm.models.layer_stack import Execution
from mixlm.models.layers import LayerSizes, check_positive
from mixlm.parallel.logical_axes import platform


def check_buckets(num_buckets: int, max_distance: int, *, bidirectional: bool) -> None:
    """Raises `UserError` where the relative buckets leave no room for both exact and logarithmic distances."""
    check_positive(num_buckets=num_buckets, max_distance=max_distance)
    step = 4 if bidirectional else 2
    if num_buckets % step:
        raise UserError(f"num_buckets = {num_buckets} must be a multiple of {step}.")
    if max_distance <= num_buckets // step:
        raise UserError(f"max_distance = {max_distance} must be above {num_buckets // step}, the exact buckets' reach.")


def relative_buckets(max_distance: int, num_buckets: int, *, bidirectional: bool) -> np.ndarray:
    """The buckets of the relative positions (key - query) -max_distance ... max_distance.

    T5, section 2.1: the first half of a direction's buckets are exact distances, the rest grow as the logarithm up to
    `max_distance`. One-directional buckets put every key behind the query into bucket 0.
    """
    relative = np.arange(-max_distance, max_distance + 1)
    distance = np.abs(relative) if bidirectional else np.maximum(-relative, 0)
    per_side = num_buckets // 2 if bidirectional else num_buckets
    exact = per_side // 2
    # T5X's epsilon avoids log(0), and puts edges at whole numbers into the upper bucket.
    ratio = distance.astype(np.float32) / np.float32(exact) + np.finfo(np.float32).eps
    logarithmic = exact + (np.log(ratio) / math.log(max_distance / exact) * (per_side - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(logarithmic, per_side - 1))
    return bucket + per_side * (relative > 0) if bidirectional else bucket


class RelativeBias(nn.Module):
    """T5's relative position bias: a trainable scalar per head and bucket, shared by all layers."""

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool

    def setup(self) -> None:
        """Creates the table, one row per head."""
        uniform = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        init = nn.with_logical_partitioning(uniform, ("heads", "relpos_buckets"))
        self.rel_embedding = self.param("rel_embedding", init, (self.num_heads, self.num_buckets), jnp.float32)

    def __call__(self, length: int, positions: Int[Array, "B T"] | None = None) -> Float[Array, "#B H T T"]:
        """The bias of query t and key s: from `positions` for each row, else from the index, once for all rows."""
        return self.from_index(length)[None] if positions is None else self.between(positions, positions)

    def view(
        self,
        sizes: LayerSizes,
        execution: Execution,
        mask: AttentionMask,
        positions: Int[Array, "B T"] | None,
        cache: Cache | None,
    ) -> View:
        """Mask and bias of self-attention: over a whole row, or over the slots of a cache."""
        if cache is not None and positions is not None:
            return mask_bias(mask.dense()) + self.between(positions, cache.positions)
        bias = self(mask.limits.shape[1], positions)
        return make_biased_view(sizes, mask, bias, *execution.attending)

    def between(self, queries: Int[Array, "B T"], keys: Int[Array, "B S"]) -> Float[Array, "B H T S"]:
        """The bias of queries and keys at these positions."""
        index = jnp.clip(keys[:, None, :] - queries[:, :, None], -self.max_distance, self.max_distance)
        return jnp.moveaxis(jnp.take(self.by_distance(), index + self.max_distance, axis=1), 0, 1)

    def by_distance(self) -> Float[Array, "H R"]:
        """The bias of the relative positions -max_distance ... max_distance."""
        buckets = relative_buckets(self.max_distance, self.num_buckets, bidirectional=self.bidirectional)
        return jnp.asarray(self.rel_embedding)[:, buckets]

    def from_index(self, length: int) -> Float[Array, "H T T"]:
        """A Toeplitz matrix for each head, by a shear: no gather of T x T indices, and no scatter in its gradient."""
        if platform() == "tpu":
            # A shear breaks up tiles, and a product of this size is cheap there.
            return self.by_product(length)
        # Row 0 is offsets 0 ... T-1, one unused, then -(T-1) ... -1; read back in rows one shorter, row t starts at -t.
        offsets = np.concatenate([np.arange(length), [0], np.arange(1 - length, 0)])
        row = self.by_distance()[:, np.clip(offsets, -self.max_distance, self.max_distance) + self.max_distance]
        heads, period = row.shape
        rows = jnp.broadcast_to(row[:, None, :], (heads, length, period)).reshape(heads, length * period)
        return rows[:, : length * (period - 1)].reshape(heads, length, period - 1)[:, :, :length]

    def by_product(self, length: int) -> Float[Array, "H T T"]:
        """`from_index` as a product with one-hot buckets: exact, since all but one term are zero."""
        buckets = relative_buckets(self.max_distance, self.num_buckets, bidirectional=self.bidirectional)
        relative = np.arange(-self.max_distance, self.max_distance + 1)
        # Every bucket is a range of relative positions; unused buckets are empty ranges.
        runs = [relative[buckets == bucket] for bucket in range(self.num_buckets)]
        first, last = (np.array([run[end] if len(run) else 1 + end for run in runs]) for end in (0, -1))
        places = jnp.arange(length)
        offsets = jnp.clip(places[None, :] - places[:, None], -self.max_distance, self.max_distance)[None]
        one_hot = (offsets >= first[:, None, None]) & (offsets <= last[:, None, None])
        rows, highest = jnp.asarray(self.rel_embedding), jax.lax.Precision.HIGHEST
        return jnp.einsum("hr,rts->hts", rows, one_hot.astype(rows.dtype), precision=highest)


def log_buckets(num_buckets: int, max_position: int) -> np.ndarray:
    """The rows of the relative embedding for query - key = -(max_position - 1) ... max_position - 1.

    Distances up to the middle, `num_buckets // 2`, have a row each; further ones share rows, of which the r-th ends at
    `middle * ((max_position - 1) / middle)^(r / (middle - 1))`. Keys ahead of the query come before row
    `num_buckets - 1`, those behind it after (DeBERTa, arXiv 2006.03654, with logarithmic buckets).
    """
    relative = np.arange(1 - max_position, max_position)
    middle = num_buckets // 2
    beyond = np.maximum(np.abs(relative), middle)
    rank = np.log(beyond / middle) / math.log((max_position - 1) / middle) * (middle - 1)
    # The last edge is a whole number of rows, which rounding must not push over.
    shared = middle + np.ceil(rank - 1e-9).astype(np.int64)
    bucket = np.where(np.abs(relative) <= middle, relative, np.sign(relative) * shared)
    return bucket + num_buckets - 1


def check_log_buckets(num_buckets: int, max_position: int) -> None:
    """Raises `UserError` where the buckets leave no room for both exact and shared distances."""
    check_positive(num_buckets=num_buckets, max_position=max_position)
    if num_buckets < 4 or num_buckets % 2:
        raise UserError(f"num_buckets = {num_buckets} must be even and at least 4.")
    if max_position <= num_buckets // 2 + 1:
        raise UserError(f"max_position = {max_position} must be above {num_buckets // 2 + 1}, the exact rows' reach.")
