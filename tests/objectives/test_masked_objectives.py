"""The laws of the objectives that hide tokens: exact counts, calibrated weights, and a bound that is the right one."""

import math
from dataclasses import replace
from functools import cache, partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.losses.terms import weighted_sum
from mixlm.losses.token_losses import CrossEntropy, Focal, MiLe
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.network import bind
from mixlm.objectives.base import RowObjective
from mixlm.objectives.causal import Causal
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.objectives.mixing import PerExample
from mixlm.objectives.prefix_lm import PrefixLM
from mixlm.objectives.unrolled_diffusion import UnrolledDiffusion
from mixlm.rng import row_keys
from mixlm.schedules import Linear, Piecewise
from mixlm.tokens import TokenIds

PAD, EOS, UNK, MASK, BOS, VOCAB = 0, 1, 2, 3, 4, 20
TOKENS = TokenIds(VOCAB, MASK, bos=BOS, sentinels=3)
TEXT = range(5, VOCAB - 3)
SPECIAL = [EOS, UNK, MASK, BOS, VOCAB - 3, VOCAB - 1]
STEP = jnp.zeros((), jnp.int32)
DIFFUSION, MASKED = MaskedDiffusion(TOKENS), MaskedLM(TOKENS)
NETWORK = DecoderOnly(VOCAB, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16, num_layers=1, num_buckets=8)


class Certain:
    """A network that reads tokens as they are; it says the token after the one it reads, whatever was asked."""

    def hidden(self, example):
        return jax.nn.one_hot((example.decoder_input_tokens + 1) % VOCAB, VOCAB) * 1e4

    def logits(self, hidden):
        return hidden


class Uniform(Certain):
    """A network that knows nothing."""

    def logits(self, hidden):
        return jnp.zeros_like(hidden)


def text(rows: int, length: int, seed: int = 0):
    drawn = np.random.default_rng(seed).integers(TEXT.start, TEXT.stop, (rows, length))
    return {"tokens": jnp.asarray(drawn, jnp.int32)}


@cache
def corrupting(objective):
    return jax.jit(objective.corrupt)


@cache
def random_params(scale: float = 3.0):
    """Parameters large enough for costs that differ from token to token."""
    params = meta.unbox(jax.jit(NETWORK.init)(jax.random.key(1), *NETWORK.inputs())["params"])
    return jax.tree.map(lambda leaf: leaf * scale, params)


def bound(params):
    return bind({"model": NETWORK}, {"model": params})


@cache
def applied():
    return jax.jit(NETWORK.apply)


def arrays(example) -> tuple[np.ndarray, ...]:
    fields = (example.decoder_input_tokens, example.decoder_target_tokens, example.decoder_loss_weights)
    return tuple(map(np.asarray, fields))


def within(samples: np.ndarray, mean: float, errors: float = 4.0):
    """The samples' mean is `mean` to within some standard errors of it."""
    samples = np.asarray(samples, np.float64)
    assert abs(samples.mean() - mean) <= errors * samples.std() / math.sqrt(samples.size), (samples.mean(), mean)


# ---- masked diffusion ---------------------------------------------------------------------------------------------

rows_with_specials = st.lists(
    st.one_of(st.sampled_from(list(TEXT)), st.sampled_from(SPECIAL)), min_size=7, max_size=7
).flatmap(lambda row: st.tuples(st.just(row), st.integers(0, 3)))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    rows_with_specials,
    st.integers(0, 2**31 - 1),
    st.sampled_from([DIFFUSION, replace(DIFFUSION, shifted=False), replace(DIFFUSION, stratified=True)]),
)
def test_masked_tokens_are_said_at_the_inverse_of_the_realised_rate_and_specials_never(drawn, seed: int, objective):
    row, padding = drawn
    row = row[: 7 - padding] + [PAD] * padding
    keys, batch = row_keys(seed, 0, 5), {"tokens": jnp.asarray([row] * 5, jnp.int32)}
    example = corrupting(objective)(keys, batch)
    inputs, targets, weights = arrays(example)
    np.testing.assert_array_equal(targets, [row] * 5)
    shown = np.concatenate([inputs[:, 1:], np.full((5, 1), -1)], axis=1) if objective.shifted else inputs
    if objective.shifted:
        assert np.all(inputs[:, 0] == BOS)
    possible = [token in TEXT for token in row]
    length = 7 - padding
    for number in range(5):
        masked = weights[number] > 0
        assert 1 <= masked.sum() <= sum(possible) or not any(possible)
        assert not np.any(masked & ~np.array(possible))
        if masked.any():
            np.testing.assert_allclose(weights[number][masked], length / masked.sum(), rtol=1e-6)
        for place in range(7 - objective.shifted):
            assert shown[number, place] == (MASK if masked[place] else row[place])
        wanted = [float(place < length and masked.any()) for place in range(7)]
        np.testing.assert_array_equal(example.loss_counts[number], wanted)
    assert np.all(np.asarray(example.decoder_mask_ar) == 0) and example.decoder_segment_ids is None


def test_how_many_are_masked_is_uniform_but_for_the_ends_and_every_set_is_as_likely():
    length, rows = 5, 12000
    weights = arrays(corrupting(DIFFUSION)(row_keys(1, 0, rows), text(rows, length)))[2]
    counts = np.bincount((weights > 0).sum(1), minlength=length + 1)
    # k = max(1, floor(L t + u)): half a share for 0 goes to 1, and L itself has half a share.
    expected = rows * np.array([1.5, 1, 1, 1, 0.5]) / length
    assert counts[0] == 0 and np.sum((counts[1:] - expected) ** 2 / expected) < 20  # 4 degrees of freedom: 1 in 2000
    pairs = weights[(weights > 0).sum(1) == 2] > 0
    sets = np.array([np.sum(pairs[:, i] & pairs[:, j]) for i, j in combinations(range(length), 2)])
    assert sets.sum() == counts[2] and np.sum((sets - sets.mean()) ** 2 / sets.mean()) < 30


@pytest.mark.slow
def test_the_estimate_averaged_over_noise_is_the_exact_expectation():
    for row, objective in (
        ([5, 9, EOS, 7, 12], DIFFUSION),
        ([5, 9, EOS, 7, 12], replace(DIFFUSION, shifted=False, stratified=True)),
    ):
        row = np.array(row)
        candidates, length = [0, 1, 3, 4], 5
        chances = dict(zip(range(1, 6), np.array([1.5, 1, 1, 1, 0.5]) / length, strict=True))
        exact = 0.0
        for count in range(1, 5):
            # The fifth candidate does not exist: k = 5 masks the four that do.
            chance = chances[count] + (chances[5] if count == 4 else 0.0)
            subsets = list(combinations(candidates, count))
            masked = np.array([[place in subset for place in range(length)] for subset in subsets])
            exact += chance * np.mean(np.sum(slow_costs(row, masked, objective.shifted) * masked, axis=1) / count)

        def estimate(key, row=row, objective=objective):
            batch = {"tokens": jnp.asarray(row[None], jnp.int32)}
            return weighted_sum(objective(bound(random_params()), batch, key[None], STEP))

        found = np.asarray(jax.jit(jax.vmap(estimate))(row_keys(5, 0, 4000)))
        assert found.std() > 0.1
        within(found, exact)


def slow_costs(row: np.ndarray, masked: np.ndarray, shifted: bool) -> np.ndarray:
    """What each token of a row costs under each mask, from the network's whole logits in float64."""
    shown = np.where(masked, MASK, row)
    inputs = np.concatenate([np.full((len(masked), 1), BOS), shown[:, :-1]], axis=1) if shifted else shown
    targets = np.tile(row, (len(masked), 1))
    example = DIFFUSION.corrupt(row_keys(0, 0, len(masked)), {"tokens": jnp.asarray(targets, jnp.int32)})
    example = replace(example, decoder_input_tokens=jnp.asarray(inputs, jnp.int32))
    logits = np.asarray(applied()({"params": random_params()}, example), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]


def test_the_release_always_scores_the_last_target_too():
    objective = replace(DIFFUSION, score_last=True, floor=1e-4)
    row, rows, length = [5, 6, 7, 8, 9, 10], 3000, 6
    batch = {"tokens": jnp.asarray([row] * rows, jnp.int32)}
    inputs, _, weights = arrays(corrupting(objective)(row_keys(2, 0, rows), batch))
    masked = inputs[:, 1:] == MASK
    count = masked.sum(1)
    assert count.min() == 1 and count.max() == length - 1  # the start token and the last target are never masked
    np.testing.assert_array_equal(weights > 0, np.concatenate([masked, np.ones((rows, 1), bool)], axis=1))
    rate = (1 - 1e-4) * count / length + 1e-4
    np.testing.assert_allclose(weights.max(1), 1 / rate, rtol=1e-6)
    np.testing.assert_allclose(np.where(weights > 0, weights, np.inf).min(1), 1 / rate, rtol=1e-6)
    # k = max(1, floor(6 t + u)), at most the five that are read.
    expected = rows * np.array([1.5, 1, 1, 1, 1.5]) / length
    assert np.sum((np.bincount(count)[1:] - expected) ** 2 / expected) < 20


def test_the_releases_floor_makes_weights_smaller():
    plain, floored = (arrays(corrupting(o)(row_keys(3, 0, 4), text(4, 9))) for o in (DIFFUSION, FLOORED))
    np.testing.assert_array_equal(plain[0], floored[0])
    said = plain[2] > 0
    rate = 1 / plain[2][said]
    np.testing.assert_allclose(floored[2][said], 1 / (0.9 * rate + 0.1), rtol=1e-6)


FLOORED = replace(DIFFUSION, floor=0.1)


class Crowded(Certain):
    """A network whose every token costs the more, the larger the share of masks that it reads."""

    def hidden(self, example):
        share = jnp.mean(example.decoder_input_tokens == MASK, axis=1, dtype=jnp.float32)
        return jnp.tile(share[:, None, None], (1, example.decoder_input_tokens.shape[1], 1))

    def logits(self, hidden):
        return hidden * 20 * jax.nn.one_hot(MASK, VOCAB)[None, None]


def test_stratified_levels_make_the_batchs_mean_cost_steadier_and_no_different():
    batch, costs = text(8, 32), {}
    batches = jax.vmap(lambda step: row_keys(4, step, 8))(jnp.arange(800))
    for stratified in (False, True):
        objective = replace(DIFFUSION, stratified=stratified)

        def cost(keys, objective=objective):
            return weighted_sum(objective({"model": Crowded()}, batch, keys, STEP))

        costs[stratified] = np.asarray(jax.jit(jax.vmap(cost))(batches), np.float64)
    spread = math.sqrt(sum(cost.var() / cost.size for cost in costs.values()))
    assert abs(costs[True].mean() - costs[False].mean()) < 4 * spread
    assert costs[True].var() < 0.25 * costs[False].var()


# ---- masked language modelling --------------------------------------------------------------------------------------


def kinds(inputs: np.ndarray, targets: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Which chosen tokens are masked, and which show another token (a random one may be the same again)."""
    return {"mask": chosen & (inputs == MASK), "other": chosen & (inputs != MASK) & (inputs != targets)}


def test_eighty_ten_ten_of_exactly_the_rate_of_the_text():
    objective, rows, length = replace(MASKED, mask_rate=0.25), 4000, 10
    tokens = np.array(text(rows, length)["tokens"])
    tokens[:, 2], tokens[:, 7] = EOS, VOCAB - 2
    inputs, targets, weights = arrays(corrupting(objective)(row_keys(0, 0, rows), {"tokens": jnp.asarray(tokens)}))
    chosen = weights > 0
    np.testing.assert_array_equal(targets, tokens)
    np.testing.assert_array_equal(inputs[~chosen], targets[~chosen])
    assert not chosen[:, [2, 7]].any() and set(np.unique(weights)) == {0.0, 1.0}
    counts = chosen.sum(1)
    assert set(counts) == {2} or set(counts) == {2, 3}
    within(np.concatenate([counts, [2, 3]]), 0.25 * 8)  # a quarter of 8 tokens is a whole number
    found = kinds(inputs, targets, chosen)
    within(found["mask"][chosen], 0.8)
    within(found["other"][chosen], 0.1 * (1 - 1 / len(TEXT)))
    shown = inputs[found["other"]]
    assert set(shown) == set(TEXT)  # random tokens are never special
    shares = np.bincount(shown - TEXT.start)
    assert np.sum((shares - shares.mean()) ** 2 / shares.mean()) < 33  # 11 degrees of freedom
    places = chosen.sum(0)[[0, 1, 3, 4, 5, 6, 8, 9]]
    assert np.sum((places - places.mean()) ** 2 / places.mean()) < 26


@pytest.mark.parametrize(("rate", "length"), [(0.15, 8), (0.3, 9), (0.5, 7), (1.0, 6)])
def test_the_count_is_rounded_up_or_down_with_the_right_mean(rate: float, length: int):
    objective = replace(MASKED, mask_rate=rate, span_lengths=(0.5, 0.5))
    counts = arrays(corrupting(objective)(row_keys(1, 0, 3000), text(3000, length)))[2].sum(1)
    exact = rate * length
    assert set(counts) == {math.floor(exact), math.ceil(exact)}
    within(counts, exact) if exact % 1 else None


def test_spans_share_a_fate_and_have_the_lengths_that_were_asked_for():
    objective = replace(MASKED, mask_rate=0.02, keep=0.5, random=0.0, span_lengths=(0.0, 0.0, 1.0))
    inputs, _, weights = arrays(corrupting(objective)(row_keys(2, 0, 500), text(500, 150)))
    chosen, masked = weights > 0, inputs == MASK
    assert set(chosen.sum(1)) == {3}  # 2% of 150: one span
    starts = chosen.argmax(1)
    assert np.all(chosen[np.arange(500)[:, None], starts[:, None] + np.arange(3)])  # in one run
    assert set(starts % 3) == {0}
    assert set(masked.sum(1)) == {0, 3}
    within(masked.sum(1) / 3, 0.5)


def test_the_mask_rate_follows_the_step_and_shifted_labels_are_one_place_to_the_left():
    objective = replace(MASKED, mask_rate=Linear(1.0, 0.5, 10), keep=0.0, random=0.0, shifted=True)
    batch = text(6, 8)
    for step, count in ((0, 8), (5, 6), (10, 4), (99, 4)):
        inputs, targets, weights = arrays(corrupting(objective)(row_keys(0, step, 6), batch, jnp.asarray(step)))
        assert np.all(weights.sum(1) == count)
        np.testing.assert_array_equal(targets, batch["tokens"])
        np.testing.assert_array_equal(inputs[:, 1:], np.where(weights > 0, MASK, targets)[:, :-1])
        assert np.all(inputs[:, 0] == BOS)


# ---- unrolled diffusion ---------------------------------------------------------------------------------------------

UNROLLED = UnrolledDiffusion(TOKENS)


@cache
def first(objective):
    return jax.jit(objective.first)


def test_the_prefix_is_frozen_and_the_target_is_noised_at_a_uniform_share():
    batch, rows, length = text(6000, 8), 6000, 8
    drawn = first(UNROLLED)(row_keys(0, 0, rows), batch)
    inputs, targets, weights = arrays(drawn.first)
    np.testing.assert_array_equal(targets, batch["tokens"])
    scored = weights > 0
    np.testing.assert_array_equal(scored, drawn.scored)
    splits = np.bincount(length - scored.sum(1), minlength=length)
    assert len(splits) == length and np.sum((splits - rows / length) ** 2) / (rows / length) < 26
    assert np.all(np.diff(scored.astype(int), axis=1) >= 0) and np.all(inputs[~scored] == targets[~scored])
    # A share a of the target is drawn anew, a uniform: half of it in the mean, its square a third in the mean.
    whole = scored.all(1)
    changed = (inputs != targets)[whole] / (1 - 1 / VOCAB)
    within(changed.mean(1), 0.5)
    within(changed[:, 0] * changed[:, 1], 1 / 3)
    seen = np.bincount(inputs[whole][(inputs != targets)[whole]], minlength=VOCAB)
    specials = seen[: TEXT.start]
    assert (
        seen.min() > 0 and np.sum((specials - specials.mean()) ** 2 / specials.mean()) < 20
    )  # any id of the vocabulary
    assert np.all(np.asarray(drawn.first.decoder_mask_ar) == 0)
    everything = first(replace(UNROLLED, prefix=False))(row_keys(0, 0, 50), text(50, 8))
    assert np.all(np.asarray(everything.scored))


def test_the_second_pass_reads_the_likeliest_tokens_and_the_clean_prefix():
    batch, keys = text(5, 9), row_keys(1, 0, 5)
    for objective in (UNROLLED, replace(UNROLLED, shifted=True), replace(UNROLLED, temperature=1.0)):
        drawn = first(objective)(keys, batch)
        second, none = jax.jit(partial(objective.shown, {"model": Certain()}))(keys, batch)
        noisy, targets, weights = arrays(drawn.first)
        answer = np.where(weights > 0, (noisy + 1) % VOCAB, targets)
        wanted = np.concatenate([np.full((5, 1), BOS), answer[:, :-1]], axis=1) if objective.shifted else answer
        np.testing.assert_array_equal(second.decoder_input_tokens, wanted)
        assert none is None
        np.testing.assert_array_equal(second.decoder_loss_weights, weights)
    before, _ = jax.jit(partial(UNROLLED.shown, None))(keys, batch)
    np.testing.assert_array_equal(before.decoder_input_tokens, first(UNROLLED)(keys, batch).first.decoder_input_tokens)


def test_both_terms_are_the_mean_over_every_target_and_no_gradient_flows_through_the_answer():
    keys, batch = row_keys(2, 0, 4), text(4, 6)

    def value(params, term):
        return UNROLLED(bound(params), batch, keys, STEP)[term].value

    def from_outside(params, answer):
        """The second pass's cost when its input is a constant."""
        example = UNROLLED.second(UNROLLED.first(keys, batch), answer)
        logits = NETWORK.apply({"params": params}, example)
        log_p = jax.nn.log_softmax(logits)
        said = jnp.take_along_axis(log_p, example.decoder_target_tokens[..., None], -1)[..., 0]
        return -jnp.sum(said * example.decoder_loss_weights) / jnp.sum(example.decoder_loss_weights)

    params = random_params()
    drawn = first(UNROLLED)(keys, batch)
    logits = np.asarray(applied()({"params": params}, drawn.first), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    said = np.take_along_axis(log_p, np.asarray(drawn.first.decoder_target_tokens)[..., None], -1)[..., 0]
    scored = np.asarray(drawn.scored)
    assert 0 < scored.sum() < scored.size
    wanted = jax.jit(jax.value_and_grad(from_outside))(params, jnp.asarray(logits.argmax(-1), jnp.int32))
    found = jax.jit(jax.value_and_grad(partial(value, term="unroll")))(params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6 * max(np.abs(other).max(), 10))
    terms = jax.jit(lambda params: UNROLLED(bound(params), batch, keys, STEP))(params)
    assert {name: float(term.weight) for name, term in terms.items() if term.weight} == {"denoise": 1.0, "unroll": 1.0}
    np.testing.assert_allclose(terms["denoise"].value, -said[scored].mean(), rtol=1e-5)
    np.testing.assert_allclose(weighted_sum(terms), found[0] - said[scored].mean(), rtol=1e-5)


def test_short_targets_end_with_eos_and_their_padding_is_read_and_scored():
    objective, rows, length = replace(UNROLLED, short_targets=0.25), 4000, 8
    drawn = first(objective)(row_keys(3, 0, rows), text(rows, length))
    _, targets, weights = arrays(drawn.first)
    short = (targets == EOS).any(1)
    within(short, 0.25)
    ends = np.where(short, (targets == EOS).argmax(1), length)
    place = np.arange(length)
    np.testing.assert_array_equal(targets == PAD, place > ends[:, None])
    assert np.all(weights[targets == PAD] == 1) and np.all(weights[targets == EOS] == 1)
    assert np.all(np.asarray(drawn.first.decoder_segments) == 1)
    whole = short & (weights.sum(1) == length)
    counts = np.bincount(ends[whole], minlength=length)
    assert np.sum((counts - counts.mean()) ** 2 / counts.mean()) < 26
    assert np.all(
        first(replace(UNROLLED, short_targets=1.0))(row_keys(3, 0, 9), text(9, 8)).first.decoder_target_tokens[:, -1]
        < 2
    )


# ---- laws of all ----------------------------------------------------------------------------------------------------

CALIBRATED = [
    Causal(TOKENS),
    Causal(TOKENS, MiLe(1.0)),
    Causal(TOKENS, Focal(1.0)),
    Causal(TOKENS, separate_documents=True),
    PrefixLM(TOKENS),
    PrefixLM(TOKENS, bidirectional_prefix=False),
    DIFFUSION,
    replace(DIFFUSION, shifted=False, loss=MiLe(2.0), stratified=True),
    replace(MASKED, mask_rate=0.5, span_lengths=(0.5, 0.3, 0.2)),
    UNROLLED,
    replace(UNROLLED, temperature=1.0, short_targets=0.5, loss=MiLe(0.5)),
    PerExample((Causal(TOKENS), DIFFUSION), (0.5,)),
    PerExample((Causal(TOKENS), replace(MASKED, mask_rate=0.5, loss=MiLe(1.0)), DIFFUSION), (0.25, 0.5)),
]


@cache
def uniform_terms(objective):
    return jax.jit(lambda batch, keys: objective({"model": Uniform()}, batch, keys, STEP))


@pytest.mark.parametrize("objective", CALIBRATED, ids=lambda objective: objective.name)
@settings(deadline=None, derandomize=True, max_examples=8)
@given(st.integers(0, 2**31 - 1), st.sampled_from([3, 8]), st.booleans())
def test_uniform_logits_cost_log_v(objective, seed: int, length: int, specials: bool):
    tokens = np.array(text(4, length, seed % 997)["tokens"])
    if specials:
        tokens[np.random.default_rng(seed).uniform(size=tokens.shape) < 0.4] = EOS
        tokens[:, 0] = TEXT.start  # something is left to mask
    terms = uniform_terms(objective)({"tokens": jnp.asarray(tokens)}, row_keys(seed, 0, 4))
    trained = {name: term for name, term in terms.items() if "/" not in name}
    assert trained
    for term in trained.values():
        if float(term.count) > 0:
            np.testing.assert_allclose(term.value, math.log(VOCAB), rtol=3e-6)
    if not isinstance(objective, UnrolledDiffusion):
        np.testing.assert_allclose(
            weighted_sum(terms) / sum(float(t.weight) for t in trained.values() if float(t.count) > 0),
            math.log(VOCAB),
            rtol=3e-6,
        )


@pytest.mark.parametrize(
    ("objective", "loss"),
    [(DIFFUSION, MiLe(0.0)), (replace(MASKED, mask_rate=0.5), Focal(0.0)), (UNROLLED, MiLe(0.0))],
)
def test_mile_and_focal_at_gamma_zero_are_cross_entropy(objective, loss):
    keys, batch = row_keys(0, 0, 4), text(4, 6)

    def found(loss):
        return jax.jit(jax.grad(lambda p: weighted_sum(replace(objective, loss=loss)(bound(p), batch, keys, STEP))))(
            random_params()
        )

    for one, other in zip(jax.tree.leaves(found(loss)), jax.tree.leaves(found(CrossEntropy())), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", [DIFFUSION, replace(MASKED, mask_rate=0.5), replace(UNROLLED, prefix=False)])
def test_a_mask_is_annealed_from_causal_to_bidirectional(objective):
    annealed = replace(objective, bidirectional=Piecewise((0, 1, 2), (0.0, 0.25, 1.0)))

    def mask_ar(step):
        made = annealed.first if isinstance(objective, UnrolledDiffusion) else annealed.corrupt
        example = jax.jit(made)(row_keys(0, step, 400), text(400, 9), jnp.asarray(step))
        return np.asarray(getattr(example, "first", example).decoder_mask_ar)

    assert np.all(mask_ar(0) == 1) and np.all(mask_ar(2) == 0)
    within(mask_ar(1), 0.75)
    assert len(np.unique(mask_ar(1), axis=0)) > 100


@pytest.mark.parametrize(
    "objective",
    [Causal(TOKENS), PrefixLM(TOKENS), DIFFUSION, replace(MASKED, mask_rate=0.5, random=0.5, shifted=False)],
)
def test_documents_of_one_row_do_not_see_each_other(objective):
    objective = replace(objective, separate_documents=True)
    row = np.array([7, 8, 9, BOS, 10, 11, 12, BOS, 13])
    rows = np.tile(row, (3, 1))
    example = corrupting(objective)(row_keys(8, 0, 3), {"tokens": jnp.asarray(rows, jnp.int32)})
    logits = np.asarray(applied()({"params": random_params()}, example))
    clean = rows if isinstance(objective, MaskedLM) else np.concatenate([np.full((3, 1), BOS), rows[:, :-1]], axis=1)
    starts = [0, *np.flatnonzero(clean[0] == BOS)]
    starts = sorted(set(map(int, starts)))
    assert len(starts) == 3
    for start, end in zip(starts, [*starts[1:], 9]):
        alone = jax.tree.map(lambda leaf, start=start, end=end: leaf[:, start:end], example)
        apart = np.asarray(applied()({"params": random_params()}, alone))
        np.testing.assert_allclose(logits[:, start:end], apart, rtol=2e-4, atol=2e-4)
    joined = replace(example, decoder_segment_ids=jnp.ones_like(example.decoder_target_tokens))
    assert np.abs(np.asarray(applied()({"params": random_params()}, joined)) - logits)[:, 4:].max() > 0.1


@pytest.mark.parametrize("objective", [DIFFUSION, MASKED, replace(DIFFUSION, score_last=True), UNROLLED])
def test_a_rows_noise_depends_on_its_own_key_and_tokens_alone(objective):
    batch, keys, order = text(5, 12), row_keys(3, 4, 5), np.array([3, 0, 4, 2, 1])
    made = first(objective) if isinstance(objective, UnrolledDiffusion) else corrupting(objective)
    here, moved = made(keys, batch), made(keys[order], {"tokens": batch["tokens"][order]})
    for one, other in zip(jax.tree.leaves(here), jax.tree.leaves(moved), strict=True):
        np.testing.assert_array_equal(np.asarray(one)[order], other)
    later = made(row_keys(3, 5, 5), batch)
    assert not all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(here), jax.tree.leaves(later), strict=True))


def test_what_only_corrupts_can_be_mixed_and_the_unrolled_cannot():
    assert isinstance(DIFFUSION, RowObjective) and isinstance(MASKED, RowObjective)
    assert not isinstance(UNROLLED, RowObjective)
    for objective in (DIFFUSION, MASKED, UNROLLED):
        assert replace(objective, network="a").networks == ("a",)
        assert objective.block_length({"inputs": 3, "targets": 24}) == 24


def test_a_prefix_that_is_read_causally_is_scored_alike():
    batch, keys = text(8, 7), row_keys(0, 0, 8)
    block, causal = (corrupting(PrefixLM(TOKENS, bidirectional_prefix=both))(keys, batch) for both in (True, False))
    assert np.all(np.asarray(causal.decoder_mask_ar) == 1) and np.any(np.asarray(block.decoder_mask_ar) == 0)
    for one, other in zip(arrays(block), arrays(causal), strict=True):
        np.testing.assert_array_equal(one, other)


T5_TOKENS = TokenIds(VOCAB, MASK, sentinels=3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: replace(DIFFUSION, floor=-0.1), "MaskedDiffusion.floor"),
        (lambda: replace(DIFFUSION, score_last=True, shifted=False), "score_last"),
        (lambda: replace(DIFFUSION, score_last=True).block_length({"targets": 1}), "at least 2 tokens"),
        (lambda: replace(DIFFUSION, bidirectional=1.5), "MaskedDiffusion.bidirectional"),
        (lambda: replace(MASKED, mask_rate=0.0), "mask_rate"),
        (lambda: replace(MASKED, mask_rate=15), "mask_rate"),
        (lambda: replace(MASKED, keep=0.6, random=0.6), "more than all"),
        (lambda: replace(MASKED, span_lengths=(0.5, 0.2)), "span_lengths"),
        (lambda: replace(MASKED, span_lengths=()), "span_lengths"),
        (lambda: replace(UNROLLED, temperature=-1.0), "temperature"),
        (lambda: replace(UNROLLED, short_targets=2.0), "short_targets"),
        (lambda: Causal(T5_TOKENS, separate_documents=True), "starts a document"),
        (lambda: PrefixLM(T5_TOKENS, separate_documents=True), "starts a document"),
        (lambda: MaskedDiffusion(T5_TOKENS, separate_documents=True), "starts a document"),
        (lambda: MaskedLM(T5_TOKENS, separate_documents=True), "starts a document"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(make, words: str):
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert str(caught.value).count("\n") == 0 and str(caught.value).endswith(".")
