"""The laws of mixing: exact shares of rows over steps, and a mix of one objective is that objective."""

import copy
import math
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.losses.score import score, score_rows
from mixlm.losses.terms import weighted_sum
from mixlm.losses.token_losses import CrossEntropy, MiLe, TokenLoss
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.network import bind
from mixlm.objectives.apportionment import apportioned
from mixlm.objectives.base import RowObjective
from mixlm.objectives.causal import Causal
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.objectives.mixing import PerExample, Sum
from mixlm.objectives.prefix_lm import PrefixLM
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.objectives.unrolled_diffusion import UnrolledDiffusion
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning, batch_sharding
from mixlm.rng import random_row_order, row_keys
from mixlm.schedules import Constant, Piecewise
from mixlm.tokens import TokenIds
from mixlm.training.step import TrainState, TrainStep

VOCAB = 20
TOKENS = TokenIds(VOCAB, mask=3, bos=4, sentinels=3)
CAUSAL, DIFFUSION = Causal(TOKENS), MaskedDiffusion(TOKENS, stratified=True)
MASKED = MaskedLM(TOKENS, mask_rate=0.5)
NETWORK = DecoderOnly(VOCAB, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16, num_layers=1, num_buckets=8)
STEP = jnp.asarray(5, jnp.int32)


def text(rows: int, length: int, seed: int = 0):
    return {"tokens": jnp.asarray(np.random.default_rng(seed).integers(5, VOCAB - 3, (rows, length)), jnp.int32)}


@cache
def random_params():
    params = meta.unbox(jax.jit(NETWORK.init)(jax.random.key(1), *NETWORK.inputs())["params"])
    return jax.tree.map(lambda leaf: leaf * 2, params)


@cache
def costing(objective):
    """(loss, terms), gradients of an objective on some rows; compiled once."""

    def loss(params, batch, keys, step):
        terms = objective(bind({"model": NETWORK}, {"model": params}), batch, keys, step)
        return weighted_sum(terms), terms

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def assert_close(found, wanted, rtol: float = 2e-5):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * max(np.abs(other).max(), 1e-3))


# ---- shares -------------------------------------------------------------------------------------------------------


@cache
def counting(rows: int, objectives: int):
    """The rows of every objective in each of some steps: [steps, objectives]."""

    def count(step, shares):
        which = apportioned(step, rows, list(shares))
        return jnp.sum(which[:, None] == jnp.arange(objectives)[None, :], axis=0)

    return jax.jit(jax.vmap(count, in_axes=(0, None)))


def test_63_of_64_with_a_batch_of_16_is_exact_over_every_fourth_step():
    counts = np.asarray(counting(16, 2)(jnp.arange(400), jnp.array([63 / 64])))
    assert set(map(tuple, counts)) == {(16, 0), (15, 1)}
    for start in range(0, 400, 4):
        assert counts[start : start + 4].sum(0).tolist() == [63, 1]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.floats(0, 1, width=32), st.sampled_from([1, 3, 16, 250]), st.integers(0, 10**6))
def test_after_any_steps_the_rows_are_the_share_to_within_one(share: float, rows: int, start: int):
    steps = 200
    counts = np.asarray(counting(rows, 2)(start + jnp.arange(steps), jnp.array([share], jnp.float32)), np.int64)
    assert np.all(counts.sum(1) == rows) and counts.min() >= 0
    exact = rows * share * np.arange(1, steps + 1)
    # From step 0 on it is within one row, and so within one of what it was at `start`, either way.
    slack = 1 if start == 0 else 2
    assert np.all(np.abs(np.cumsum(counts[:, 0]) - exact) < slack + (start + steps) * rows * 2.0**-33)


@pytest.mark.parametrize("share", [0.0, 1.0, 1 / 3, 63 / 64, 1 / 256, 255 / 256, 0.1, 0.999999])
@pytest.mark.parametrize("rows", [16, 7, 2048])
def test_the_count_of_any_step_is_the_difference_of_two_exact_whole_numbers(share: float, rows: int):
    steps = [0, 1, 2, 1000, 2**20 + 1, 2**29 + 7, 2**31 - 2]
    counts = np.asarray(counting(rows, 2)(jnp.array(steps, jnp.int32), jnp.array([share], jnp.float32)))
    fixed = round(float(np.float32(share)) * 2**32)  # Python's whole numbers do not wrap around
    wanted = [((step + 1) * rows * fixed >> 32) - (step * rows * fixed >> 32) for step in steps]
    assert counts[:, 0].tolist() == wanted


@pytest.mark.parametrize("share", [0.25, 0.618034])
def test_the_rows_of_an_objective_are_neighbours_in_rank(share: float):
    # Noise levels go round by 0.618 from rank to rank: rows picked at a like pace would all get like levels.
    mix, keys = PerExample((CAUSAL, DIFFUSION), (share,)), row_keys(1, 0, 50)
    by_rank = np.asarray(mix.assigned(keys, 3))[np.argsort(random_row_order(keys))]
    assert set(by_rank) == {0, 1} and np.all(np.diff(by_rank) >= 0)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=4, max_size=4).filter(lambda parts: sum(parts) > 0))
def test_four_objectives_have_their_shares_too(parts: list[int]):
    shares = np.array(parts) / sum(parts)
    counts = np.asarray(counting(12, 4)(jnp.arange(300), jnp.array(shares[:3], jnp.float32)), np.int64)
    assert np.all(counts.sum(1) == 12) and counts.min() >= 0
    assert np.abs(np.cumsum(counts, axis=0) - 12 * shares * np.arange(1, 301)[:, None]).max() < 3


def test_rows_change_hands_every_step_and_each_has_each_objective_equally_often():
    mix = PerExample((CAUSAL, DIFFUSION), (0.25,))
    which = np.asarray(jax.jit(jax.vmap(lambda s: mix.assigned(row_keys(0, s, 8), s)))(jnp.arange(2000)))
    assert np.all((which == 0).sum(1) == 2)
    per_row = (which == 0).sum(0)
    assert np.sum((per_row - 500) ** 2 / 500) < 26  # 7 degrees of freedom
    assert len(np.unique(which, axis=0)) == 28  # every pair of eight rows


def test_a_share_that_is_a_schedule_follows_the_step():
    mix = PerExample((CAUSAL, DIFFUSION), (Piecewise((0, 10), (1.0, 0.5)),))
    which = jax.jit(lambda step: mix.assigned(row_keys(0, 0, 8), step))
    assert [int(jnp.sum(which(jnp.asarray(step)) == 0)) for step in (0, 9, 10, 11)] == [8, 8, 4, 4]


def test_the_noise_levels_of_a_mixs_rows_are_spread_evenly():
    mix = PerExample((CAUSAL, replace(DIFFUSION, shifted=False)), (0.5,))
    batch = text(32, 400)
    keys = row_keys(2, 0, 32)
    which = np.asarray(mix.assigned(keys, 0))
    inputs = np.asarray(jax.jit(mix.corrupt)(keys, batch, 0).decoder_input_tokens)
    levels = np.sort((inputs == TOKENS.mask).mean(1)[which == 1])
    assert len(levels) == 16 and np.diff(np.concatenate([levels, [levels[0] + 1]])).max() < 2.5 / 16


# ---- the mix ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "alone"), [(1.0, CAUSAL), (0.0, DIFFUSION)])
def test_a_mix_with_one_objective_is_that_objective_gradients_included(share: float, alone):
    batch, keys = text(6, 7), row_keys(3, 0, 6)
    (loss, terms), gradients = costing(PerExample((CAUSAL, DIFFUSION), (share,)))(random_params(), batch, keys, STEP)
    (wanted, wanted_terms), wanted_gradients = costing(alone)(random_params(), batch, keys, STEP)
    assert_close(loss, wanted)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted_gradients)) > 0.01
    assert_close(gradients, wanted_gradients)
    for name, term in wanted_terms.items():
        assert_close(terms[name].value, term.value)
    (other,) = {"causal", "masked_diffusion"} - {alone.name}
    assert (float(terms[other].weight), float(terms[other].value)) == (0.0, 0.0)
    assert (float(terms[f"{alone.name}/share"].value), float(terms[f"{other}/share"].value)) == (1.0, 0.0)


LOSSES = [(CrossEntropy(), CrossEntropy()), (MiLe(1.0), MiLe(1.0)), (CrossEntropy(1e-3), MiLe(2.0))]


@pytest.mark.parametrize("losses", LOSSES, ids=str)
def test_the_loss_is_the_mean_over_rows_of_what_each_objective_costs_alone(losses: tuple[TokenLoss, TokenLoss]):
    parts = (replace(CAUSAL, loss=losses[0]), replace(DIFFUSION, loss=losses[1], stratified=False))
    mix = PerExample(parts, (0.5,), loss_weights=(2.0, 0.5))
    batch, keys = text(8, 7), row_keys(4, 0, 8)
    which = np.asarray(mix.assigned(keys, STEP))
    (loss, terms), gradients = costing(mix)(random_params(), batch, keys, STEP)
    wanted, wanted_gradients = 0.0, jax.tree.map(jnp.zeros_like, random_params())
    for index, (part, weight) in enumerate(zip(parts, mix.loss_weights, strict=True)):
        mine = np.flatnonzero(which == index)
        assert len(mine) == 4
        (cost, alone), slope = costing(part)(random_params(), {"tokens": batch["tokens"][mine]}, keys[mine], STEP)
        wanted = wanted + 0.5 * weight * cost
        wanted_gradients = jax.tree.map(lambda a, b, w=weight: a + 0.5 * w * b, wanted_gradients, slope)
        for name, term in alone.items():
            assert_close(terms[name].value, term.value)
    assert_close(loss, wanted)
    assert_close(gradients, wanted_gradients)


def test_a_causal_weight_of_two_doubles_the_causal_gradient_and_no_other():
    batch, keys = text(8, 7), row_keys(4, 0, 8)

    def gradient(*weights):
        return costing(PerExample((CAUSAL, DIFFUSION), (0.5,), weights))(random_params(), batch, keys, STEP)[1]

    once, twice, alone = gradient(1.0, 1.0), gradient(2.0, 1.0), gradient(1.0, 0.0)
    assert_close(jax.tree.map(jnp.subtract, twice, once), alone, rtol=1e-4)
    assert_close(gradient(2.0, 0.0), jax.tree.map(lambda leaf: 2 * leaf, alone))


def traced(mix, **fields):
    """The mix with numbers of these fields traced, as the step is given them."""
    changed = copy.copy(mix)
    for name, values in fields.items():
        object.__setattr__(changed, name, tuple(values))
    return changed


def test_one_executable_serves_every_ratio():
    mix, traces = PerExample((CAUSAL, DIFFUSION), (0.5,), (1.0, 1.0)), []
    assert mix.traced == ("shares", "loss_weights")
    batch, keys = text(8, 6), row_keys(4, 0, 8)

    @jax.jit
    def cost(shares, weights):
        traces.append(1)
        nets = bind({"model": NETWORK}, {"model": random_params()})
        terms = traced(mix, shares=shares, loss_weights=weights)(nets, batch, keys, STEP)
        return weighted_sum(terms), terms["causal/share"].value

    for share, weight in ((0.0, 1.0), (0.25, 1.0), (1.0, 1.0), (0.5, 2.0)):
        found, got = cost(*map(lambda x: tuple(jnp.asarray(v, jnp.float32) for v in x), ((share,), (weight, 1.0))))
        assert float(got) == share
        if share == 0.5:
            untraced = PerExample((CAUSAL, DIFFUSION), (share,), (weight, 1.0))
            assert_close(found, costing(untraced)(random_params(), batch, keys, STEP)[0][0])
    assert len(traces) == 1


def test_the_rows_of_every_objective_read_what_it_alone_would_give_them():
    parts = (CAUSAL, PrefixLM(TOKENS), MASKED, replace(DIFFUSION, stratified=False))
    mix = PerExample(parts, (0.25, 0.25, 0.25))
    assert isinstance(mix, RowObjective) and mix.networks == ("model",)
    assert mix.block_length({"targets": 9}) == 9
    batch, keys = text(8, 9), row_keys(1, 0, 8)
    which, mixed = np.asarray(mix.assigned(keys, 0)), jax.jit(mix.corrupt)(keys, batch)
    assert np.bincount(which).tolist() == [2, 2, 2, 2]
    for index, part in enumerate(parts):
        alone, mine = jax.jit(part.corrupt)(keys, batch), which == index
        for name in ("input_tokens", "target_tokens", "loss_weights", "mask_ar", "segments"):
            ours, theirs = (np.asarray(getattr(example, f"decoder_{name}")) for example in (mixed, alone))
            np.testing.assert_array_equal(ours[mine], theirs[mine])
        np.testing.assert_array_equal(np.asarray(mixed.loss_counts)[mine], np.asarray(alone.loss_counts)[mine])


@pytest.mark.parametrize("share", [0.5, 0.9, 63 / 64])
def test_microbatches_change_nothing(share):
    diffusion = replace(DIFFUSION, stratified=True)
    mix, batch = PerExample((CAUSAL, diffusion), (share,), (2.0, 1.0)), text(16, 6)

    def run(microbatches: int, objective):
        optimizer = Optimizer(AdamW(), Constant(0.01))
        params = {"model": random_params()}
        state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
        return jax.jit(partial(TrainStep((("model", NETWORK),), optimizer, microbatches), objective=objective))(
            state, batch, jnp.asarray(0)
        )

    figures, figures_of_four = run(1, mix)[1], run(4, mix)[1]
    causal = math.floor(16 * share)
    assert float(figures["causal/share"]) == causal / 16 < 1
    loss = causal / 16 * 2 * figures["causal"] + (1 - causal / 16) * figures["masked_diffusion"]
    np.testing.assert_allclose(figures["loss"], loss, rtol=1e-5)
    assert figures["grad_norm"] > 0.1
    assert_close(figures, figures_of_four)


def test_every_device_count_mixes_alike():
    mix, batch = PerExample((CAUSAL, DIFFUSION), (0.5,)), text(16, 9)

    def made(devices: int):
        mesh = Partitioning(data=devices).mesh(jax.devices()[:devices])
        rows = jax.device_put(batch, batch_sharding(mesh))
        mixed = jax.jit(lambda rows: mix.corrupt(row_keys(0, STEP, 16), rows, STEP))
        return jax.device_get(jax.tree.leaves(mixed(rows)))

    for one, eight in zip(made(1), made(8), strict=True):
        np.testing.assert_array_equal(one, eight)


# ---- scoring row by row -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [CrossEntropy(1e-3), MiLe(1.0)])
@pytest.mark.parametrize("block", [3, 128])
def test_rows_scored_apart_add_up_to_the_batch_with_any_factor_for_each(loss: TokenLoss, block: int):
    generator = np.random.default_rng(0)
    hidden, head = (jnp.asarray(generator.normal(size=size), jnp.float32) for size in ((4, 7, 5), (5, 11)))
    targets = jnp.asarray(generator.integers(0, 11, (4, 7)), jnp.int32)
    weights = jnp.asarray(generator.uniform(0, 2, (4, 7)) * (generator.uniform(size=(4, 7)) < 0.6), jnp.float32)
    counted = jnp.ones((4, 7))
    factors = jnp.array([1.0, -2.0, 0.0, 3.0])

    def cost(hidden, head):
        found = score_rows(
            lambda h: jnp.einsum("...d,dv->...v", h, head),
            hidden,
            targets,
            weights,
            loss,
            counted,
            max_logits=4 * 11 * block,
        )
        return jnp.sum(factors * found.total), found

    def one_by_one(hidden, head):
        rows = [
            score(
                lambda h: jnp.einsum("...d,dv->...v", h, head),
                *(x[i : i + 1] for x in (hidden, targets, weights)),
                loss,
                counted[i : i + 1],
            )
            for i in range(4)
        ]
        return sum(factor * row.total for factor, row in zip(factors, rows, strict=True)), rows

    found, wanted = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(hidden, head) for f in (cost, one_by_one)
    )
    assert_close((found[0][0], found[1]), (wanted[0][0], wanted[1]))
    rows = wanted[0][1]
    for name in ("total", "count", "cross_entropy", "counted", "right", "scored"):
        assert_close(getattr(found[0][1], name), jnp.stack([getattr(row, name) for row in rows]))
    some = found[0][1].among(jnp.array([True, False, True, False]))
    assert_close(some.total, rows[0].total + rows[2].total)


def factors_case():
    generator = np.random.default_rng(0)
    hidden, head = (jnp.asarray(generator.normal(size=size), jnp.float32) for size in ((4, 7, 5), (5, 11)))
    targets = jnp.asarray(generator.integers(0, 11, (4, 7)), jnp.int32)

    def cost(factors, hidden, head, known=None):
        found = score_rows(
            lambda h: h @ head,
            hidden,
            targets,
            jnp.ones((4, 7)),
            CrossEntropy(1e-3),
            jnp.ones((4, 7)),
            known,
            4 * 11 * 2,
        )
        return 3 * jnp.sum(factors * found.total)

    return cost, hidden, head


def test_factors_that_are_known_change_no_number():
    cost, hidden, head = factors_case()
    factors = jnp.array([1.0, 0.25, 0.0, 3.0])
    found, wanted = (
        jax.jit(jax.value_and_grad(cost, argnums=(1, 2)))(factors, hidden, head, known) for known in (factors, None)
    )
    assert_close(found, wanted)
    nothing = jax.grad(cost, argnums=(1, 2))(jnp.zeros(4), hidden, head, jnp.zeros(4))
    assert all(not jnp.any(leaf) for leaf in nothing)


def test_factors_that_were_wrong_show():
    cost, hidden, head = factors_case()
    factors = jnp.array([1.0, 0.25, 0.0, 3.0])
    for wrong in (factors.at[1].set(0.5), factors.at[2].set(1.0), jnp.zeros(4)):
        gradients = jax.grad(cost, argnums=(1, 2))(factors, hidden, head, wrong)
        assert all(jnp.all(jnp.isnan(leaf)) for leaf in gradients)


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("losses", [(CrossEntropy(), CrossEntropy()), (CrossEntropy(), CrossEntropy(1e-3))])
def test_a_mix_in_blocks_is_the_mix(losses, microbatches: int, monkeypatch):
    parts = (replace(CAUSAL, loss=losses[0]), replace(DIFFUSION, loss=losses[1]))
    mix = PerExample(parts, (0.5,), loss_weights=(2.0, 0.5))
    modules, optimizer = (("model", NETWORK),), Optimizer(AdamW(), Constant(0.01), clip_norm=None)

    def stepped():
        params = {"model": random_params()}
        state = TrainState(STEP, params, optimizer.init(params))
        step = jax.jit(lambda *given: TrainStep(modules, optimizer, microbatches)(*given, mix))
        return step(state, text(8, 9), jnp.int32(0))

    wanted = stepped()
    monkeypatch.setattr(
        "mixlm.objectives.mixing.score_rows", partial(score_rows, max_logits=8 * VOCAB * 2 // microbatches)
    )
    found = stepped()
    assert_close(found[1], wanted[1])
    # Adam divides by a gradient's size: of what is near none, the sign is rounding.
    assert_close(found[0].params, wanted[0].params, 2e-3)


# ---- sums ---------------------------------------------------------------------------------------------------------


def test_a_sum_adds_losses_with_their_weights_and_noise_of_their_own():
    parts = (CAUSAL, replace(DIFFUSION, stratified=False), UnrolledDiffusion(TOKENS))
    total = Sum(parts, (1.0, Piecewise((0, 5), (0.0, 0.25)), 3.0))
    batch, keys = text(4, 6), row_keys(0, 0, 4)
    (loss, terms), _ = costing(total)(random_params(), batch, keys, STEP)
    wanted = 0.0
    for index, (part, weight) in enumerate(zip(parts, (1.0, 0.25, 3.0), strict=True)):
        own = jax.vmap(partial(jax.random.fold_in, data=index))(keys)
        (cost, alone), _ = costing(part)(random_params(), batch, own, STEP)
        wanted = wanted + weight * cost
        for name, term in alone.items():
            assert_close(terms[name].value, term.value)
            assert float(terms[name].weight) == weight * float(term.weight)
    assert_close(loss, wanted)
    assert total.networks == ("model",) and total.block_length({"targets": 8}) == 8
    assert total.traced == ("weights",)


# ---- what cannot be mixed -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WithoutLoss:
    name: ClassVar[str] = "nameless"
    networks: ClassVar[tuple[str, ...]] = ("model",)

    def block_length(self, lengths):
        return lengths["targets"]

    def corrupt(self, keys, batch, step=0):
        return CAUSAL.corrupt(keys, batch, step)

    def __call__(self, nets, batch, keys, step):
        return {}


SPANS = SpanCorruption(TOKENS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PerExample((CAUSAL, DIFFUSION), ()), r"must have 1 entries for 2 objectives"),
        (lambda: PerExample((CAUSAL, DIFFUSION), (0.5, 0.5)), r"the last objective takes the rest"),
        (lambda: PerExample((CAUSAL, DIFFUSION, MASKED), (0.7, 0.7)), r"add up to more than 1"),
        (lambda: PerExample((CAUSAL, DIFFUSION), (-0.5,)), r"PerExample\.shares"),
        (lambda: PerExample((CAUSAL, DIFFUSION), (float("nan"),)), r"PerExample\.shares"),
        (lambda: PerExample((CAUSAL, DIFFUSION), (0.5,), (1.0,)), r"loss_weights .* 2 entries"),
        (lambda: PerExample((CAUSAL, DIFFUSION), (0.5,), (1.0, float("inf"))), r"PerExample\.loss_weights"),
        (lambda: PerExample((), ()), r"at least one objective"),
        (lambda: PerExample((CAUSAL, replace(DIFFUSION, network="other")), (0.5,)), r"train model and other"),
        (lambda: PerExample((CAUSAL, replace(CAUSAL, loss=MiLe())), (0.5,)), r"different names"),
        (lambda: PerExample((CAUSAL, WithoutLoss()), (0.5,)), r"nameless has none"),
        (lambda: PerExample((CAUSAL, SPANS), (0.5,)).block_length({"inputs": 36, "targets": 9}), r"different lengths"),
        (lambda: PerExample((CAUSAL, SPANS), (0.5,)).corrupt(row_keys(0, 0, 2), text(2, 20)), r"mix causal with span"),
        (lambda: apportioned(0, 2**16 + 1, [0.5]), r"at most 65536 rows"),
        (lambda: Sum((CAUSAL,), (1.0, 2.0)), r"Sum\.weights"),
        (lambda: Sum((CAUSAL,), (-1.0,)), r"Sum\.weights"),
        (lambda: Sum((CAUSAL, SPANS), (1.0, 1.0)).block_length({"inputs": 36, "targets": 9}), r"different lengths"),
        (
            lambda: costing(Sum((CAUSAL, CAUSAL), (1.0, 1.0)))(random_params(), text(2, 4), row_keys(0, 0, 2), STEP),
            r"two terms named 'causal",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_one_sentence(make, words: str):
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_lists_become_tuples_so_that_a_mix_is_static():
    mix = PerExample((CAUSAL, DIFFUSION), (0.5,))
    assert hash(mix) == hash(PerExample((CAUSAL, DIFFUSION), (0.5,))) and mix != PerExample(
        (CAUSAL, DIFFUSION), (0.25,)
    )
