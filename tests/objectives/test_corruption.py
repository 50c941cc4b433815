"""The laws of noise: exact counts, uniform choices, and T5's own distribution of spans."""

from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations, pairwise
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.objectives.corruption import (
    block_mask,
    check_documents,
    check_rate,
    choose_positions,
    decoder_inputs,
    document_segments,
    fold_spans,
    mask_k_lowest,
    maskable,
    random_segmentation,
    random_spans,
    random_tokens,
    rate_at,
    sample,
    shift_right,
    span_counts,
    span_mask,
)
from mixlm.rng import random_row_order, stratified_levels
from mixlm.schedules import Linear
from mixlm.tokens import TokenIds

seeds = st.integers(0, 2**31 - 1)


def keys(count: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), count)


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic of counts against expected counts."""
    return float(np.sum((observed - expected) ** 2 / expected))


def runs(mask: np.ndarray) -> tuple[list[int], list[int]]:
    """The lengths of the runs that are False and of those that are True, in order."""
    lengths: tuple[list[int], list[int]] = ([], [])
    start = 0
    for place in range(1, len(mask) + 1):
        if place == len(mask) or mask[place] != mask[start]:
            lengths[int(mask[start])].append(place - start)
            start = place
    return lengths


def t5_counts(length: int, density: float, mean: float) -> tuple[int, int]:
    """T5's rounding as its preprocessor does it: half to even, clipped so that both kinds of token remain."""
    noise = int(np.clip(np.rint(length * density), 1, length - 1))
    return noise, int(max(np.rint(noise / mean), 1))


def t5_segment_lengths(generator: np.random.Generator, items: int, segments: int) -> np.ndarray:
    """T5's random segmentation: shuffle which items start a new segment, then count the items of each."""
    starts = generator.permutation((np.arange(items - 1) < segments - 1).astype(int))
    return np.bincount(np.concatenate([[0], np.cumsum(starts)]), minlength=segments)


@cache
def mask_of(length: int, noise: int, spans: int):
    return jax.jit(jax.vmap(partial(span_mask, length=length, noise=noise, spans=spans)))


@pytest.mark.parametrize("density", [0.05, 0.1, 0.15, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("mean", [1.0, 2.0, 3.0, 3.5, 8.0, 32.0])
def test_span_counts_are_t5s_rounding_or_refused(density: float, mean: float):
    for length in range(2, 1200, 7):
        noise, spans = t5_counts(length, density, mean)
        if spans > min(noise, length - noise):
            with pytest.raises(UserError, match=f"row of {length} tokens"):
                span_counts(length, density, mean)
        else:
            assert span_counts(length, density, mean) == (noise, spans)


def test_halves_are_rounded_to_even():
    assert [span_counts(length, 0.5, 3.0)[0] for length in (5, 7, 9, 11)] == [2, 4, 4, 6]
    assert [span_counts(length, 0.5, 2.0)[1] for length in (6, 10, 14, 18)] == [2, 2, 4, 4]


@pytest.mark.parametrize("length", [0, 1])
def test_a_row_too_short_for_noise_is_refused(length: int):
    with pytest.raises(UserError, match=f"row of {length} tokens"):
        span_counts(length, 0.15, 3.0)


def test_every_way_to_cut_is_equally_likely():
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: random_segmentation(key, 6, 3)))(keys(5000)))
    ways = {
        (a, b - a, 6 - b): np.sum(np.all(drawn == (a, b - a, 6 - b), axis=1)) for a, b in combinations(range(1, 6), 2)
    }
    counts = np.array(list(ways.values()))
    assert len(ways) == comb(5, 2) and counts.sum() == 5000
    assert chi_square(counts, np.full(10, 500)) < 30  # 9 degrees of freedom: 1 in 2000


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.sampled_from([(2, 1, 1), (12, 6, 6), (50, 45, 5)]), seeds)
def test_a_mask_has_exact_counts_starts_clean_and_ends_noisy(sizes: tuple[int, int, int], seed: int):
    length, noise, spans = sizes
    for mask in np.asarray(mask_of(*sizes)(keys(4, seed))):
        clean_runs, noisy_runs = runs(mask)
        assert mask.shape == (length,) and mask.sum() == noise
        assert len(clean_runs) == len(noisy_runs) == spans
        assert not mask[0] and mask[-1]


def parts_law(items: int, parts: int) -> np.ndarray:
    """How likely a part is j long, j >= 1: C(items-j-1, parts-2) of C(items-1, parts-1) compositions start with j."""
    return np.array([comb(items - j - 1, parts - 2) / comb(items - 1, parts - 1) for j in range(1, items - parts + 2)])


def test_span_lengths_are_distributed_as_in_t5s_algorithm():
    length, noise, spans, rows = 200, 30, 10, 1500
    drawn = [runs(mask) for mask in np.asarray(mask_of(length, noise, spans)(keys(rows)))]
    generator = np.random.default_rng(1)
    for kind, items in enumerate((length - noise, noise)):
        ours = np.concatenate([row[kind] for row in drawn])
        theirs = np.concatenate([t5_segment_lengths(generator, items, spans) for _ in range(rows)])
        law = parts_law(items, spans)
        edges = np.unique(np.searchsorted(np.cumsum(law), np.linspace(0.05, 0.95, 10)) + 2)
        bins = np.concatenate([[1], edges, [items + 1]])
        expected = np.array([law[a - 1 : b - 1].sum() for a, b in pairwise(bins)]) * rows * spans
        # At most 10 bins, and the parts of a row repel each other: 30 is generous.
        assert chi_square(np.histogram(ours, bins)[0], expected) < 30
        assert chi_square(np.histogram(theirs, bins)[0], expected) < 30


def test_spans_and_gaps_are_drawn_independently():
    # As many noisy tokens as clean ones: one key for both would draw the same lengths twice.
    drawn = [runs(mask) for mask in np.asarray(mask_of(24, 12, 3)(keys(1000)))]
    first = np.array([[clean[0], noisy[0]] for clean, noisy in drawn])
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.12


@cache
def folded_to(length: int):
    return jax.jit(partial(fold_spans, length=length, first_sentinel=99, eos=1))


def slow_fold(tokens: np.ndarray, mask: np.ndarray, first_sentinel: int, eos: int) -> list[int]:
    folded: list[int] = []
    sentinel = first_sentinel
    for place, token in enumerate(tokens):
        if not mask[place]:
            folded.append(int(token))
        elif place == 0 or not mask[place - 1]:
            folded.append(sentinel)
            sentinel -= 1
    return [*folded, eos]


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.booleans(), min_size=6, max_size=6), seeds)
def test_folding_is_the_slow_loops_wherever_spans_lie(bits: list[bool], seed: int):
    mask = np.array(bits)
    tokens = np.random.default_rng(seed).integers(2, 80, 6).astype(np.int32)
    wanted = slow_fold(tokens, mask, 99, 1)
    folded = folded_to(len(wanted))(jnp.asarray(tokens), jnp.asarray(mask))
    assert folded.dtype == jnp.int32
    np.testing.assert_array_equal(folded, wanted)


@cache
def chosen(size: int, count: int):
    return jax.jit(
        jax.vmap(lambda key, candidates: choose_positions(key, candidates, count, count)[0], in_axes=(0, None))
    )


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.booleans(), min_size=9, max_size=9).filter(lambda bits: sum(bits) >= 3), seeds)
def test_exactly_count_candidates_are_chosen_distinct_and_ascending(bits: list[bool], seed: int):
    for places in np.asarray(chosen(9, 3)(keys(4, seed), jnp.asarray(bits))):
        assert places.shape == (3,) and np.all(np.diff(places) > 0)
        assert all(bits[place] for place in places)


def test_every_choice_of_candidates_is_equally_likely():
    candidates = jnp.array([True, False, True, True, True, False, True])
    drawn = np.asarray(chosen(7, 2)(keys(5000), candidates))
    ways = list(combinations([0, 2, 3, 4, 6], 2))
    counts = np.array([np.sum(np.all(drawn == way, axis=1)) for way in ways])
    assert counts.sum() == 5000
    assert chi_square(counts, np.full(10, 500)) < 30


def test_samples_follow_the_softmax():
    logits = jnp.array([1.0, -2.0, 0.5, 2.0, -jnp.inf, 0.0])
    noise = jax.random.uniform(jax.random.key(3), (20000,))
    drawn = np.asarray(sample(jnp.broadcast_to(logits, (20000, 6)), noise))
    exact = np.exp(np.asarray(logits, np.float64))
    exact /= exact.sum()
    counts = np.bincount(drawn, minlength=6)
    assert counts[4] == 0
    likely = exact > 0
    assert chi_square(counts[likely], 20000 * exact[likely]) < 22  # 4 degrees of freedom: 1 in 5000


@settings(deadline=None, derandomize=True, max_examples=30)
@given(seeds, st.sampled_from([0.2, 0.7, 1.0, 3.0]))
def test_a_sample_is_the_inverse_of_the_cumulative_distribution_at_the_temperature(seed: int, temperature: float):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(2, 16, 11)).astype(np.float32) * 3
    noise = generator.uniform(size=(2, 16)).astype(np.float32)
    drawn = np.asarray(sample(jnp.asarray(logits), jnp.asarray(noise), temperature))
    raised = np.exp(logits.astype(np.float64) / temperature)
    cumulative = np.cumsum(raised / raised.sum(-1, keepdims=True), axis=-1)
    wanted = np.sum(cumulative <= noise[..., None], axis=-1)
    clear = np.min(np.abs(cumulative - noise[..., None]), axis=-1) > 1e-5
    assert clear.mean() > 0.9 and drawn.dtype == np.int32
    np.testing.assert_array_equal(drawn[clear], wanted[clear])


@pytest.mark.parametrize("noise", [0.0, 1e-7, 0.5, float(np.nextafter(np.float32(1), np.float32(0)))])
def test_no_noise_picks_an_impossible_token_or_leaves_the_vocabulary(noise: float):
    possible = np.zeros((4, 64), bool)
    possible[0, 20:40], possible[1, ::3], possible[2, 63], possible[3, :2] = True, True, True, True
    values = np.random.default_rng(0).normal(size=possible.shape)
    drawn = sample(jnp.asarray(np.where(possible, values, -np.inf), jnp.float32), jnp.full(4, noise, jnp.float32))
    assert possible[np.arange(4), np.asarray(drawn)].all()


def test_the_greatest_noise_picks_the_last_possible_token_of_many_rows():
    """A running sum rounds otherwise than a sum, so the threshold may lie at or beyond its end."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(2000, 100)).astype(np.float32) * 2
    ends = generator.integers(1, 101, 2000)
    values[np.arange(100) >= ends[:, None]] = -np.inf
    noise = jnp.full(2000, np.nextafter(np.float32(1), np.float32(0)))
    drawn = np.asarray(sample(jnp.asarray(values), noise))
    # The last token's own weight may be less than a float32 tells apart from nothing.
    assert (drawn < ends).all() and (drawn == ends - 1).mean() > 0.99


def test_the_ends_of_the_noise_are_the_ends_of_the_distribution():
    logits = jnp.zeros((2, 32128))
    assert sample(logits, jnp.array([0.0, np.nextafter(np.float32(1), np.float32(0))])).tolist() == [0, 32127]


def test_half_precision_logits_are_summed_in_float32():
    drawn = sample(jnp.zeros((500, 500), jnp.bfloat16), (jnp.arange(500) + 0.5) / 500)
    np.testing.assert_array_equal(drawn, np.arange(500))


def test_shifting_puts_the_start_in_front_and_drops_the_last():
    shifted = shift_right(jnp.array([5, 6, 7], jnp.int32), 9)
    assert shifted.tolist() == [9, 5, 6] and shifted.dtype == jnp.int32
    assert shift_right(jnp.array([5]), 9).tolist() == [9]


# ---- masks, random text, ranks and levels --------------------------------------------------------------------------

SMALL = TokenIds(20, mask=12, pad=0, eos=1, unk=2, bos=7, sentinels=4)
SMALL_TEXT = [token for token in range(16) if token not in (0, 1, 2, 7, 12)]


def test_text_is_all_but_the_special_ids():
    assert np.flatnonzero(np.asarray(maskable(jnp.arange(20), SMALL))).tolist() == SMALL_TEXT
    # Without sentinels, and with T5's start token, which is its padding.
    plain = TokenIds(9, mask=8, sentinels=0)
    assert np.flatnonzero(np.asarray(maskable(jnp.arange(9), plain))).tolist() == [3, 4, 5, 6, 7]


def test_random_text_is_uniform_over_the_text_and_only_there():
    drawn = np.asarray(jax.jit(partial(random_tokens, length=11000, tokens=SMALL))(jax.random.key(0)))
    counts = np.bincount(drawn, minlength=20)
    assert np.flatnonzero(counts).tolist() == SMALL_TEXT
    assert chi_square(counts[SMALL_TEXT], np.full(11, 1000)) < 30  # 10 degrees of freedom: 1 in 1000
    with pytest.raises(UserError, match="all special"):
        random_tokens(jax.random.key(0), 3, TokenIds(5, mask=3, bos=4, sentinels=0))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=8, max_size=8),
    st.integers(0, 9),
)
def test_the_first_candidates_are_those_a_stable_sort_would_take(row: list[tuple[int, bool]], count: int):
    scores, candidates = np.array([s for s, _ in row], np.float32), np.array([c for _, c in row])
    found = np.asarray(taking()(jnp.asarray(scores), jnp.asarray(candidates), jnp.asarray(count)))
    wanted = sorted((place for place in range(8) if candidates[place]), key=lambda place: scores[place])[:count]
    assert np.flatnonzero(found).tolist() == sorted(wanted)


@cache
def taking():
    return jax.jit(mask_k_lowest)


def test_spans_cut_a_row_into_lengths_of_the_given_probabilities():
    drawn = np.asarray(jax.jit(jax.vmap(partial(random_spans, length=120, span_lengths=(0.2, 0.0, 0.8))))(keys(300)))
    assert np.all(drawn[:, 0] == 0) and set(np.unique(np.diff(drawn, axis=1))) == {0, 1}
    # The last span of a row may be cut by its end.
    lengths = np.concatenate([np.bincount(row)[:-1] for row in drawn])
    assert set(lengths) == {1, 3}
    share = np.mean(lengths == 1)
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / len(lengths))
    assert np.asarray(random_spans(jax.random.key(0), 5, (1.0,))).tolist() == [0, 1, 2, 3, 4]


def test_ranks_are_a_uniform_permutation_that_moves_with_the_rows():
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: random_row_order(jax.random.split(key, 3))))(keys(6000)))
    orders, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(orders) == 6 and np.all(np.sort(orders, axis=1) == np.arange(3))
    assert chi_square(counts, np.full(6, 1000)) < 23  # 5 degrees of freedom
    some, order = keys(9), np.random.default_rng(0).permutation(9)
    np.testing.assert_array_equal(random_row_order(some)[order], random_row_order(some[order]))


def test_even_levels_are_uniform_each_and_a_golden_turn_apart():
    drawn = np.asarray(
        jax.jit(jax.vmap(lambda key: stratified_levels(jax.random.split(key, 8))))(keys(4000)), np.float64
    )
    assert drawn.min() >= 0 and drawn.max() < 1
    for row in (0, 5):
        assert chi_square(np.histogram(drawn[:, row], 16, (0, 1))[0], np.full(16, 250)) < 40
    some = keys(2048, seed=3)
    rank, levels = np.asarray(random_row_order(some)), np.asarray(stratified_levels(some), np.float64)
    levels = levels[np.argsort(rank)]
    golden = (np.sqrt(5) - 1) / 2
    apart = (levels - levels[0] - golden * np.arange(2048)) % 1
    assert np.minimum(apart, 1 - apart).max() < 2e-6  # 2048 steps of a 32-bit rounding
    # Any run of ranks leaves no gap of twice its even share.
    for start, count in ((0, 16), (700, 16), (100, 1000)):
        run = np.sort(levels[start : start + count])
        assert np.diff([*run, run[0] + 1]).max() < 2.2 / count


def test_documents_start_where_the_start_token_is_read_and_padding_is_in_none():
    inputs = jnp.array([[5, 6, 7, 8, 7, 9], [7, 5, 7, 7, 5, 0]])
    targets = jnp.array([[6, 7, 8, 7, 9, 5], [5, 7, 7, 5, 0, 0]])
    assert document_segments(inputs, targets, SMALL).tolist() == [[1, 1, 2, 2, 3, 3], [1, 1, 2, 3, 0, 0]]
    check_documents(SMALL)
    with pytest.raises(UserError, match=r"tokens\.bos is the padding, 0\.$"):
        check_documents(TokenIds(20, mask=3, sentinels=4))


def test_rates_are_numbers_or_schedules_and_nothing_else():
    @dataclass(frozen=True)
    class Owner:
        rate: object

    assert float(rate_at(0.25, 7)) == 0.25 and float(rate_at(Linear(0.0, 1.0, 10), jnp.asarray(5))) == 0.5
    for rate in (0, 1, 0.5, Linear(0.0, 1.0, 10)):
        check_rate(Owner(rate), "rate")
    for rate in (-0.1, 1.1, "half", True, float("nan")):
        with pytest.raises(UserError, match=r"Owner\.rate"):
            check_rate(Owner(rate), "rate")


def test_a_decoder_reads_what_is_shown_shifted_or_not():
    shown = jnp.array([[5, 6, 7], [8, 9, 10]])
    assert decoder_inputs(shown, 4, shifted=True).tolist() == [[4, 5, 6], [4, 8, 9]]
    assert decoder_inputs(shown, 4, shifted=False).tolist() == shown.tolist()


def test_a_chain_of_blocks_opens_at_the_given_share_of_places():
    assert np.all(np.asarray(block_mask(keys(3), 5, 1.0, 0)) == 0) and np.all(
        np.asarray(block_mask(keys(3), 5, 0.0, 0)) == 1
    )
    opened = np.asarray(block_mask(keys(500), 20, 0.7, 0))
    assert abs(opened.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / opened.size)
    assert np.all(np.abs(opened.mean(0) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 500))
