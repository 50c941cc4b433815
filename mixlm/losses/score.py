"""Token losses as (total, count) pairs, summed before dividing; logits are computed in chunks."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mixlm.losses.chunked import chunk_count, in_chunks, in_parts, map_parts, sum_chunks, zero_sums
from mixlm.losses.per_device import Shards, shards_of
from mixlm.losses.softmax import is_first_largest
from mixlm.losses.terms import Term, Weight
from mixlm.losses.token_losses import CrossEntropy, TokenLoss, cross_entropy

Logits = Callable[[Float[Array, "*n D"]], Float[Array, "*n V"]]
Pick = Callable[[Float[Array, "*n V"], Float[Array, "*n"]], Int[Array, "*n"]]


@struct.dataclass
class Scored:
    """Sums over the scored positions of a batch, and the token picked at each position where a pick was asked for.

    `score_rows` gives the sums of each row instead.
    """

    total: Float[Array, "*B"]
    count: Float[Array, "*B"]
    cross_entropy: Float[Array, "*B"]
    counted: Float[Array, "*B"]
    right: Float[Array, "*B"]
    scored: Float[Array, "*B"]
    weight_sum: Float[Array, "*B"]
    picked: Int[Array, "B T"] | None = None

    def among(self, rows: Bool[Array, " B"]) -> "Scored":
        """The sums over some of the rows, from those of each row."""
        return jax.tree.map(lambda sums: jnp.sum(jnp.where(rows, sums, 0.0)), self)

    def terms(self, name: str, loss: TokenLoss, weight: Weight = 1.0) -> dict[str, Term]:
        """The loss term `name`, its accuracy, and its plain cross-entropy where the loss is another one."""
        terms = {
            name: Term(self.total, self.count, weight, self.scored, self.weight_sum),
            f"{name}/accuracy": Term(self.right, self.scored, 0.0),
        }
        if loss != CrossEntropy():
            terms[f"{name}/cross_entropy"] = Term(self.cross_entropy, self.counted, 0.0)
        return terms


def score(
    logits: Logits,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    loss: TokenLoss,
    counted: Float[Array, "B T"] | None = None,
    pick: Pick | None = None,
    noise: Float[Array, "B T"] | None = None,
    max_logits: int | None = None,
) -> Scored:
    """Scores every position, in chunks of at most `max_logits` logits on a device; None: see `chunked.chunk_count`.

    The gradient of a chunk is computed while its logits are in memory (that of a sum is known up to a factor), so no
    product is computed twice. `weights` of 0 leave a position out; the mean divides by `counted` (default: weights
    above 0). `pick(logits, noise)` chooses a token at every position without a gradient; `noise` is in [0, 1).
    """
    counted = (weights > 0).astype(jnp.float32) if counted is None else counted
    noise = jnp.zeros_like(weights) if noise is None else noise
    columns = (targets, weights, counted, noise)
    shards = shards_of(*targets.shape)
    rows, length, vocab_size = _positions(logits, hidden, shards)
    chunks = chunk_count(rows * length, 1, vocab_size, max_logits)
    sums = partial(_chunk_sums, logits, loss, pick, jnp.sum)
    if chunks == 1:
        total, rest, picked = sums(hidden, *columns)
        return Scored(total, **rest, picked=picked)

    def cut(x):
        # [B, T, ...] -> [1, B T, ...] -> [chunks, 1, ceil(B T / chunks), ...], for the rows of one device.
        return in_chunks(x.reshape(1, -1, *x.shape[2:]), chunks)

    total, rest, picked = sum_chunks(sums, shards, cut, (hidden, *columns))
    if picked is not None:
        picked = picked.reshape(len(picked), -1)[:, : rows * length].reshape(-1, rows, length)
        picked = picked[0] if shards is None else shards.whole(picked)
    return Scored(jnp.sum(total), **jax.tree.map(jnp.sum, rest), picked=picked)


def _positions(logits: Logits, hidden: Float[Array, "B T D"], shards: Shards | None) -> tuple[int, int, int]:
    """The rows and positions of a device, and the vocabulary's size."""
    rows, length, _ = hidden.shape
    if shards is not None:
        rows, length = rows // shards.rows, length // shards.positions
    return rows, length, jax.eval_shape(logits, hidden[:1, :1]).shape[-1]


def score_rows(
    logits: Logits,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    loss: TokenLoss,
    counted: Float[Array, "B T"],
    factors: Float[Array, " B"] | None = None,
    max_logits: int | None = None,
) -> Scored:
    """`score` with sums per row and without a pick, for rows whose totals the loss weights differently.

    `factors` are the loss's weights of the row totals, up to a common factor: gradients are then computed in the
    forward pass as in `score`, and are NaN if the loss weights the totals otherwise. Without `factors` the logits of
    several chunks are recomputed in the backward pass: a fourth product with the head's matrix next to the three.
    """
    columns = (targets, weights, counted, jnp.zeros_like(weights))
    shards = shards_of(*targets.shape)
    rows, length, vocab_size = _positions(logits, hidden, shards)
    chunks = chunk_count(length, rows, vocab_size, max_logits)
    sums = partial(_chunk_sums, logits, loss, None, partial(jnp.sum, axis=1))
    if chunks == 1:
        total, rest, _ = sums(hidden, *columns)
        return Scored(total, **rest)
    found = _row_sums(sums, shards, partial(in_chunks, chunks=chunks), (hidden, *columns), factors)
    return Scored(**jax.tree.map((lambda x: x[0]) if shards is None else shards.row_sums, found))


def _row_sums(sums, shards, cut, arrays, factors):
    if factors is not None:
        factors = in_parts(shards, jnp.broadcast_to(factors[:, None], arrays[1].shape))[..., 0]
        total, rest, _ = sum_chunks(sums, shards, cut, arrays, factors)
        return {"total": total, **rest}

    def body(carry, part):
        return jax.tree.map(jnp.add, carry, sums(*part)[:2]), None

    def added(*part):
        (total, rest), _ = jax.lax.scan(jax.checkpoint(body), zero_sums(part[0][:, 0, 0]), tuple(map(cut, part)))
        return {"total": total, **rest}

    return map_parts(shards)(added, *(in_parts(shards, x) for x in arrays))


def token_costs(
    logits: Logits, hidden: Float[Array, "B T D"], targets: Int[Array, "B T"], max_logits: int | None = None
) -> Float[Array, "B T"]:
    """The plain cross-entropy of every position in nats, in chunks as in `score`; for evaluation."""
    return token_predictions(logits, hidden, targets, max_logits)[0]


def token_predictions(
    logits: Logits, hidden: Float[Array, "B T D"], targets: Int[Array, "B T"], max_logits: int | None = None
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """Returns (`token_costs`, and the mask of the targets that are the likeliest token, the first one of equals)."""

    def predictions(chunk_hidden, chunk_targets):
        values = logits(chunk_hidden)
        return cross_entropy(values, chunk_targets), is_first_largest(values, chunk_targets)

    rows, length, vocab_size = _positions(logits, hidden, None)
    chunks = chunk_count(length, rows, vocab_size, max_logits)
    if chunks == 1:
        return predictions(hidden, targets)
    found = jax.lax.map(lambda part: predictions(*part), tuple(in_chunks(x, chunks) for x in (hidden, targets)))
    costs, likeliest = (jnp.moveaxis(each, 0, 1).reshape(targets.shape[0], -1)[:, :length] for each in found)
    return costs, likeliest


def _chunk_sums(scores, loss, pick, add, hidden, targets, weights, counted, noise):
    logits = scores(hidden)
    cost, scale = loss(logits, targets)
    plain = cost if loss == CrossEntropy() else cross_entropy(jax.lax.stop_gradient(logits), targets)
    scale = jax.lax.stop_gradient(scale)
    scored = weights > 0
    right = is_first_largest(jax.lax.stop_gradient(logits), targets) & scored
    rest = {
        "count": add(counted + weights * (scale - 1)),
        "cross_entropy": add(jax.lax.stop_gradient(plain) * weights),
        "counted": add(counted),
        "right": add(right, dtype=jnp.float32),
        "scored": add(scored, dtype=jnp.float32),
        "weight_sum": add(weights * scale),
    }
    picked = None if pick is None else pick(jax.lax.stop_gradient(logits), noise)
    return add(weights * scale * cost), rest, picked
