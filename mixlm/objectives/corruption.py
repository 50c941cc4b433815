"""Corruption of rows of tokens, on the device: each function takes one row and one key; `jax.vmap` makes it a batch.

Counts are fixed by the length, so that shapes are static.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mixlm.errors import UserError
from mixlm.schedules import Schedule, Step
from mixlm.tokens import TokenIds
from mixlm.values import check_number

Rate = float | Schedule | Float[Array, ""]  # the last where a number of a recipe is traced
SAMPLE_BLOCK = 128  # Ours: near the square root of a vocabulary, which keeps both running sums short.


def rounded_counts(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """`span_counts` whether or not a row can hold them; neither, nor `length - noise`, falls as `length` grows."""
    noise = min(max(round(length * noise_density), 1), length - 1)
    return noise, max(round(noise / mean_span_length), 1)


def span_counts(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """Returns (noise tokens of a row, spans that hold them), by T5's rounding (half to even), at least one of each.

    We round in float64 as T5's Python does; its TensorFlow code, in float32, differs by one token at some exact halves.
    """
    noise, spans = rounded_counts(length, noise_density, mean_span_length)
    if length < 2 or spans > min(noise, length - noise):
        raise UserError(
            f"A row of {length} tokens cannot hold {spans} noise spans at noise density {noise_density} and mean span "
            f"length {mean_span_length}; use longer rows or other rates."
        )
    return noise, spans


def random_segmentation(key: Key[Array, ""], items: int, segments: int) -> Int[Array, " N"]:
    """Lengths of `segments` non-empty pieces of `items`, uniform over all ways to cut (T5's random segmentation)."""
    cuts = jnp.sort(jax.random.choice(key, items - 1, (segments - 1,), replace=False)) + 1
    return jnp.diff(cuts, prepend=0, append=items)


def span_mask(key: Key[Array, ""], length: int, noise: int, spans: int) -> Bool[Array, " L"]:
    """Noise mask of a row: clean and noise segments alternate, starting clean and ending with noise (as in T5)."""
    clean_key, noise_key = jax.random.split(key)
    clean_lengths = random_segmentation(clean_key, length - noise, spans)
    noise_lengths = random_segmentation(noise_key, noise, spans)
    ends = jnp.cumsum(jnp.stack([clean_lengths, noise_lengths], axis=1).reshape(-1))
    return jnp.searchsorted(ends, jnp.arange(length), side="right") % 2 == 1


def fold_spans(
    tokens: Int[Array, " L"], mask: Bool[Array, " L"], length: int, first_sentinel: int, eos: int
) -> Int[Array, " S"]:
    """Replaces each masked span by a sentinel, in descending order of ids, and appends EOS: `length` tokens in all.

    `length` must be the tokens kept + spans + 1; nothing is padded.
    """
    sentinels = first_sentinel + 1 - jnp.cumsum(span_starts(mask))
    folded = jnp.where(span_starts(mask), sentinels, tokens)[fold_sources(mask, length)]
    return jnp.append(folded, eos).astype(tokens.dtype)


def span_starts(mask: Bool[Array, " L"]) -> Bool[Array, " L"]:
    """Mask of the first token of each masked span."""
    return mask & ~jnp.concatenate([jnp.zeros(1, bool), mask[:-1]])


def fold_sources(mask: Bool[Array, " L"], length: int) -> Int[Array, " S"]:
    """Source index in the row of each of the `length - 1` tokens before the EOS of `fold_spans`.

    A sentinel's is the first token of its span.
    """
    written = jnp.cumsum(~mask | span_starts(mask))
    return jnp.searchsorted(written, jnp.arange(1, length), side="left")


def before_padding(rows: Int[Array, "*n L"], pad: int) -> Bool[Array, "*n L"]:
    """Mask of the positions before a row's trailing padding."""
    return jnp.cumsum((rows != pad)[..., ::-1], axis=-1)[..., ::-1] > 0


def choose_positions(
    key: Key[Array, ""], candidates: Bool[Array, " S"], count: int, wanted: int | Int[Array, ""]
) -> tuple[Int[Array, " N"], Bool[Array, " N"]]:
    """Exactly `count` distinct positions, uniform among the candidates, ascending; and a mask of `wanted` of them."""
    scores = jnp.where(candidates, jax.random.uniform(key, candidates.shape), -1.0)
    places = jax.lax.top_k(scores, count)[1]
    order = jnp.argsort(places)
    return places[order], (jnp.arange(count) < wanted)[order]


def sample(logits: Float[Array, "*n V"], noise: Float[Array, "*n"], temperature: float = 1.0) -> Int[Array, "*n"]:
    """Samples softmax(logits / temperature) by inverting the cumulative distribution at `noise` in [0, 1).

    One uniform number a position instead of one an entry of the vocabulary. The inversion goes by blocks of entries,
    then within one block: a running sum over the whole vocabulary would be most of the work.
    """
    scaled = logits.astype(jnp.float32) / temperature
    weights = jnp.exp(scaled - jnp.max(scaled, axis=-1, keepdims=True))
    size = min(SAMPLE_BLOCK, weights.shape[-1])
    blocks = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, -weights.shape[-1] % size)])
    blocks = blocks.reshape(*weights.shape[:-1], -1, size)
    sums = jnp.cumsum(jnp.sum(blocks, axis=-1), axis=-1)
    block, left = _invert(sums, noise * sums[..., -1])
    entries = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    entry, _ = _invert(jnp.cumsum(entries, axis=-1), left)
    return block * size + entry


def _invert(
    cumulative: Float[Array, "*n N"], threshold: Float[Array, "*n"]
) -> tuple[Int[Array, "*n"], Float[Array, "*n"]]:
    """The first place whose running sum exceeds the threshold, and how much of the threshold is left there.

    Rounding may put the threshold at the end of all: then it is the last place that added anything.
    """
    place = jnp.sum(cumulative <= threshold[..., None], axis=-1, dtype=jnp.int32)
    last = jnp.argmax(cumulative, axis=-1).astype(jnp.int32)
    place = jnp.minimum(place, last)
    before = jnp.take_along_axis(cumulative, jnp.maximum(place - 1, 0)[..., None], axis=-1)[..., 0]
    return place, threshold - jnp.where(place > 0, before, 0.0)


def shift_right(tokens: Int[Array, " T"], start: int | Int[Array, ""]) -> Int[Array, " T"]:
    """Decoder inputs for these targets: `start`, then all of them but the last."""
    return jnp.concatenate([jnp.full(1, start, tokens.dtype), tokens[:-1]])


def decoder_inputs(shown: Int[Array, "B T"], starts: int | Int[Array, " B"], shifted: bool = True) -> Int[Array, "B T"]:
    """Decoder inputs: where shifted, position i reads `shown[i - 1]` and the first one `starts`; else `shown[i]`."""
    if not shifted:
        return shown
    return jax.vmap(shift_right)(shown, jnp.broadcast_to(jnp.asarray(starts, shown.dtype), shown.shape[:1]))


def row_starts(batch: Mapping[str, Any], tokens: TokenIds, row_bos: bool) -> int | Int[Array, " B"]:
    """The first input of each row: BOS, or without `row_bos` the token before it, where there is one.

    Rows are cut from a text anywhere, so that BOS would stand in mid-document.
    """
    if row_bos or "previous" not in batch:
        return tokens.bos
    return jnp.where(batch["previous"] == tokens.pad, tokens.bos, batch["previous"])


def scored_targets(targets: Int[Array, "B T"], tokens: TokenIds, score_bos: bool) -> Bool[Array, "B T"]:
    """Mask of the targets before padding; without `score_bos` also without those that begin a document."""
    real = before_padding(targets, tokens.pad)
    return real if score_bos else real & (targets != tokens.bos)


def document_segments(inputs: Int[Array, "B T"], targets: Int[Array, "B T"], tokens: TokenIds) -> Int[Array, "B T"]:
    """Segment ids that keep attention within documents: one starts at every `tokens.bos` among the inputs.

    `inputs` are those before corruption; padding (by the targets) is segment 0.
    """
    starts = (inputs == tokens.bos).at[:, 0].set(True)
    return jnp.where(targets == tokens.pad, 0, jnp.cumsum(starts, axis=1, dtype=jnp.int32))


def check_row_bos(row_bos: bool, separate_documents: bool) -> None:
    """Raises UserError where neither rows nor documents begin with BOS, with which scoring and decoding begin."""
    if not (row_bos or separate_documents):
        raise UserError(
            "ROW_BOS = False needs DOCUMENT_BOS = True, since scoring and decoding begin with BOS, and neither rows "
            "nor documents would: give ROW_BOS = True."
        )


def check_documents(tokens: TokenIds) -> None:
    """Raises UserError where a document's start could not be told from padding."""
    if tokens.bos == tokens.pad:
        raise UserError(
            f"separate_documents needs a token that starts a document, but tokens.bos is the padding, {tokens.pad}."
        )


def maskable(row: Int[Array, "*n"], tokens: TokenIds) -> Bool[Array, "*n"]:
    """Mask of the tokens that may be masked: all but padding, EOS, BOS, unknown, mask and sentinels.

    The Dual release spares its 16 lowest ids, which are the same ones.
    """
    special = row > tokens.first_sentinel - tokens.sentinels
    for token in _low_specials(tokens):
        special = special | (row == token)
    return ~special


def random_tokens(key: Key[Array, ""], length: int, tokens: TokenIds) -> Int[Array, " L"]:
    """Uniform, independent tokens that are `maskable`; UserError where the vocabulary has none."""
    specials = _low_specials(tokens)
    count = tokens.vocab_size - tokens.sentinels - len(specials)
    if count < 1:
        raise UserError(f"A vocabulary of {tokens.vocab_size} ids that are all special has no text to draw from.")
    drawn = jax.random.randint(key, (length,), 0, count)
    for token in specials:
        drawn = drawn + (drawn >= token)
    return drawn


def _low_specials(tokens: TokenIds) -> list[int]:
    """The special ids below the sentinels, ascending."""
    low = {tokens.pad, tokens.eos, tokens.unk, tokens.bos, tokens.mask}
    return sorted(token for token in low if token <= tokens.first_sentinel - tokens.sentinels)


def mask_k_lowest(scores: Float[Array, " L"], candidates: Bool[Array, " L"], k: Int[Array, ""]) -> Bool[Array, " L"]:
    """The `k` candidates of the lowest scores, in the row's order where scores are equal; all if there are fewer.

    `k` may be traced; with uniform scores every set of that size is equally likely.
    """
    order = jnp.argsort(jnp.where(candidates, scores, jnp.inf), stable=True)
    place = jnp.argsort(order)
    return (place < k) & candidates


def random_spans(key: Key[Array, ""], length: int, span_lengths: tuple[float, ...]) -> Int[Array, " L"]:
    """Cuts a row into spans whose lengths 1, 2, ... have these probabilities; returns each token's span index."""
    chances = jnp.cumsum(jnp.asarray(span_lengths, jnp.float32))
    drawn = jnp.searchsorted(chances / chances[-1], jax.random.uniform(key, (length,)), side="right") + 1
    return jnp.searchsorted(jnp.cumsum(drawn), jnp.arange(length), side="right")


def block_mask(keys: Key[Array, " B"], length: int, bidirectional: Rate, step: Step) -> Int[Array, "B T"]:
    """`decoder_mask_ar` where every position joins the block before it with probability `bidirectional` at `step`.

    1 is bidirectional, 0 causal; between, a row is a chain of blocks: the annealing of a mask (ours).
    """
    if isinstance(bidirectional, int | float) and bidirectional == 1:
        return jnp.zeros((keys.shape[0], length), jnp.int32)
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)
    return (drawn >= rate_at(bidirectional, step)).astype(jnp.int32)


def rate_at(rate: Rate, step: Step) -> Float[Array, ""]:
    """A rate's value at `step`: the number itself, or its schedule's."""
    return jnp.asarray(rate(step) if isinstance(rate, Schedule) else rate, jnp.float32)


def check_rate(owner: object, name: str) -> None:
    """Raises UserError unless field `name` is a number in [0, 1], or a schedule, whose values are not looked at."""
    if not isinstance(getattr(owner, name), Schedule):
        check_number(owner, name, 0, 1)
