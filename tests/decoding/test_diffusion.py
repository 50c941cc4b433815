"""Diffusion: every step is what the whole network says of the state before it, and the schedule is met exactly."""

import itertools
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st
from support.statistics import agrees, softmax

from mixlm.decoding.autoregressive import Sampler, decoder_prompts
from mixlm.decoding.diffusion import ancestral, decode_masked, decode_unrolled, most_confident, unmask_plan
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models.llama import Llama
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

IDS = TokenIds(vocab_size=12, mask=4, bos=3, sentinels=2)
# Initial weights this large make a network that is sure of little, but tells places and neighbours apart.
MODEL = Llama(vocab_size=12, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_layers=1, init_std=0.6)
PROMPTS = [[9, 5, 7, 8], [6], [8, 8, 5, 9, 6, 7, 5]]
ROOM, LENGTH = 20, 7


@cache
def parameters():
    return meta.unbox(jax.jit(MODEL.init)(jax.random.key(5), *MODEL.inputs())["params"])


@jax.jit
def everything(params, example):
    return MODEL.apply({"params": params}, example)


def slow_logits(prompt, target, shifted, params=None):
    """What the network says of each token of one unpadded text, bidirectionally; [T, V]."""
    text = [IDS.bos, *prompt, *target][:-1] if shifted else [*prompt, *target]
    tokens = np.zeros((1, ROOM), np.int32)
    tokens[0, : len(text)] = text
    segments = jnp.asarray(np.arange(ROOM)[None] < len(text), jnp.int32)
    example = Example(
        jnp.asarray(tokens),
        jnp.asarray(tokens),
        jnp.zeros(tokens.shape),
        jnp.zeros_like(segments),
        decoder_segment_ids=segments,
    )
    logits = np.asarray(everything(params or parameters(), example), np.float64)[0]
    return logits[len(text) - len(target) : len(text)]


def log_softmax(logits):
    high = logits.max(axis=-1, keepdims=True)
    return logits - high - np.log(np.exp(logits - high).sum(axis=-1, keepdims=True))


def read(shifted, rows=PROMPTS):
    return decoder_prompts([[IDS.bos, *row] for row in rows] if shifted else rows, bidirectional=True)


def on_host(found):
    fields = {name: np.asarray(part) for name, part in vars(found).items() if part is not None}
    return SimpleNamespace(**fields)


def unroll(shifted=False, rows=PROMPTS, seed=0, temperature=0.2, length=LENGTH, steps=5, samples=4):
    prompt, keys = read(shifted, rows), row_keys(seed, 0, len(rows))
    return on_host(
        decode_unrolled(MODEL, parameters(), prompt, keys, Sampler(temperature), length, steps, samples, shifted, IDS)
    )


def unmask(order, plan, shifted=False, rows=PROMPTS, seed=0, temperature=0.0, length=LENGTH):
    prompt, keys = read(shifted, rows), row_keys(seed, 0, len(rows))
    return on_host(
        decode_masked(MODEL, parameters(), prompt, keys, Sampler(temperature), plan, order, length, shifted, IDS)
    )


@pytest.mark.parametrize("shifted", [False, True])
def test_every_place_is_said_anew_at_each_step(shifted):
    found = unroll(shifted, temperature=0.0)
    assert found.states.shape == (3, 6, LENGTH)
    for row, prompt in enumerate(PROMPTS):
        for before, after in itertools.pairwise(found.states[row]):
            np.testing.assert_array_equal(after, np.argmax(slow_logits(prompt, before.tolist(), shifted), axis=-1))
    np.testing.assert_array_equal(found.tokens, found.states[:, -1])
    np.testing.assert_array_equal(found.calls, 5)


@pytest.mark.parametrize("shifted", [False, True])
def test_the_score_is_the_last_input_under_its_output(shifted):
    found = unroll(shifted)
    for row, prompt in enumerate(PROMPTS):
        last = found.states[row, -2]
        costs = -log_softmax(slow_logits(prompt, last.tolist(), shifted))[np.arange(LENGTH), last]
        np.testing.assert_allclose(found.score[row], -costs.mean(), atol=1e-4)


def test_more_samples_are_never_worse():
    # The first sample of several is the only one of one.
    one, four = unroll(samples=1).score, unroll().score
    assert (four >= one - 1e-5).all() and (four > one + 1e-3).any()


def test_the_start_is_uniform_over_the_vocabulary():
    found = unroll(rows=[PROMPTS[1]] * 300, steps=1, samples=1)
    assert agrees(np.bincount(found.states[:, 0].reshape(-1), minlength=12), np.full(12, 1 / 12))


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_a_step_draws_from_the_network(temperature):
    # A shifted target of one token is never read, so that all rows have the same softmax.
    found = unroll(True, rows=[PROMPTS[0]] * 1500, temperature=temperature, length=1, steps=1, samples=1)
    shares = softmax(slow_logits(PROMPTS[0], [0], True)[0] / temperature)
    assert agrees(np.bincount(found.tokens[:, 0], minlength=12), shares)


@pytest.mark.parametrize("decode", [unroll, partial(unmask, ancestral, unmask_plan(LENGTH, 4))])
def test_a_row_is_drawn_by_its_own_key(decode):
    together, again = decode(temperature=1.0), decode(temperature=1.0)
    np.testing.assert_array_equal(together.states, again.states)
    assert (decode(temperature=1.0, seed=1).states != together.states).any()
    alone = decode(temperature=1.0, rows=PROMPTS[:1])
    np.testing.assert_array_equal(alone.states[0], together.states[0])
    # The same prompt in another row meets other noise.
    assert (decode(temperature=1.0, rows=[PROMPTS[0]] * 3).states[1] != together.states[0]).any()


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 40), st.integers(1, 60), st.one_of(st.none(), st.integers(1, 45)))
def test_the_schedule_adds_up(length, steps, block_length):
    blocks = -(-length // (block_length or length))
    if steps < blocks:
        with pytest.raises(UserError, match=str(blocks)):
            unmask_plan(length, steps, block_length)
        return
    plan = unmask_plan(length, steps, block_length)
    assert len(plan.start) == len(plan.end) == len(plan.count) == len(plan.chance) == steps
    covered = []
    for start, end in sorted(set(zip(plan.start.tolist(), plan.end.tolist()))):
        own = plan.start == start
        assert plan.count[own].sum() == end - start
        assert plan.count[own].max() - plan.count[own].min() <= 1
        # Noise level 1 at first, 0 at last, in equal steps.
        kept = np.cumprod(1 - plan.chance[own].astype(np.float64))
        np.testing.assert_allclose(kept, 1 - np.arange(1, own.sum() + 1) / own.sum(), atol=1e-6)
        covered += range(start, end)
    assert covered == list(range(length)) and (np.diff(plan.start) >= 0).all()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("block_length", [None, 3])
def test_the_most_confident_are_unmasked_first(shifted, block_length):
    plan = unmask_plan(LENGTH, 4, block_length)
    found = unmask(most_confident, plan, shifted)
    for row, prompt in enumerate(PROMPTS):
        state = np.full(LENGTH, IDS.mask)
        for turn in range(4):
            np.testing.assert_array_equal(found.states[row, turn], state)
            logits = slow_logits(prompt, state.tolist(), shifted)
            logits[:, IDS.mask] = -np.inf
            sure = log_softmax(logits).max(axis=-1)
            may = [place for place in range(plan.start[turn], plan.end[turn]) if state[place] == IDS.mask]
            chosen = sorted(may, key=lambda place: -sure[place])[: plan.count[turn]]
            state[chosen] = np.argmax(logits, axis=-1)[chosen]
        np.testing.assert_array_equal(found.tokens[row], state)
    assert (found.tokens != IDS.mask).all() and (found.calls == 4).all()


def test_confidence_is_the_networks_and_not_that_of_the_temperature():
    """Of two drawn tokens the likelier stays, and the other is drawn again: all such pairs are added up."""
    prompt, temperature = [5, 11], 2.0  # Here the two places differ in how sure they are.

    def log_p_of(state, temperature):
        logits = slow_logits(prompt, state, False)
        logits[:, IDS.mask] = -np.inf
        return log_softmax(logits / temperature)

    def shares(confidence):
        both, drawn = np.zeros((12, 12)), np.exp(log_p_of([IDS.mask] * 2, temperature))
        behind = [np.exp(log_p_of([token, IDS.mask], temperature))[1] for token in range(12)]
        before = [np.exp(log_p_of([IDS.mask, token], temperature))[0] for token in range(12)]
        for one, two in itertools.product(range(12), repeat=2):
            if confidence[0, one] >= confidence[1, two]:
                both[one] += drawn[0, one] * drawn[1, two] * behind[one]
            else:
                both[:, two] += drawn[0, one] * drawn[1, two] * before[two]
        return both.reshape(-1)

    found = unmask(most_confident, unmask_plan(2, 2), rows=[prompt] * 6000, temperature=temperature, length=2)
    counts = np.bincount(found.tokens[:, 0] * 12 + found.tokens[:, 1], minlength=144)
    assert agrees(counts, shares(log_p_of([IDS.mask] * 2, 1.0)))
    assert not agrees(counts, shares(log_p_of([IDS.mask] * 2, temperature)))


def test_blocks_are_finished_one_after_the_other():
    plan = unmask_plan(LENGTH, 5, 3)
    found = unmask(ancestral, plan, temperature=1.0, rows=PROMPTS * 4)
    for turn, (before, after) in enumerate(itertools.pairwise(np.moveaxis(found.states, 1, 0))):
        assert (after[:, : plan.start[turn]] == before[:, : plan.start[turn]]).all()
        assert (after[:, : plan.start[turn]] != IDS.mask).all()
        assert (after[:, plan.end[turn] :] == IDS.mask).all()
        assert (after[before != IDS.mask] == before[before != IDS.mask]).all()
    assert (found.tokens != IDS.mask).all()


def test_the_mask_is_never_said():
    # A network that says the mask wherever it may.
    head = parameters()["logits_dense"]["kernel"]
    loud = parameters() | {"logits_dense": {"kernel": head.at[:, IDS.mask].mul(-50.0)}}
    assert (np.argmax(slow_logits(PROMPTS[0], [IDS.mask] * LENGTH, False, loud), axis=-1) == IDS.mask).any()
    for order in (most_confident, ancestral):
        found = decode_masked(
            MODEL,
            loud,
            read(False),
            row_keys(0, 0, 3),
            Sampler(1.0),
            unmask_plan(LENGTH, 4),
            order,
            LENGTH,
            False,
            IDS,
        )
        assert (np.asarray(found.tokens) != IDS.mask).all()


@pytest.mark.parametrize("shifted", [False, True])
def test_ancestral_texts_follow_the_reverse_process(shifted):
    """All ways through the reverse process are added up, for a target of two tokens in three steps."""
    rows, prompt, plan = 4000, PROMPTS[0], unmask_plan(2, 3)

    def ends(state, turn):
        if turn == 3:
            return {state: 1.0}
        logits = slow_logits(prompt, list(state), shifted)
        logits[:, IDS.mask] = -np.inf
        said = np.exp(log_softmax(logits))
        chance, found = 1 / (3 - turn), {}
        kinds = [
            [(token, chance * said[place, token]) for token in range(12) if token != IDS.mask]
            + [(IDS.mask, 1 - chance)]
            if state[place] == IDS.mask
            else [(state[place], 1.0)]
            for place in range(2)
        ]
        for (first, p), (second, q) in itertools.product(*kinds):
            if p * q > 1e-12:
                for text, share in cached((first, second), turn + 1).items():
                    found[text] = found.get(text, 0.0) + p * q * share
        return found

    cached = cache(ends)
    exact = cached((IDS.mask, IDS.mask), 0)
    shares = np.zeros((12, 12))
    for text, share in exact.items():
        shares[text] = share
    np.testing.assert_allclose(shares.sum(), 1, atol=1e-6)
    tokens = unmask(ancestral, plan, shifted, rows=[prompt] * rows, temperature=1.0, length=2).tokens
    counts = np.bincount(tokens[:, 0] * 12 + tokens[:, 1], minlength=144)
    assert agrees(counts, shares.reshape(-1) / shares.sum())
    # Saying both tokens at once would give another distribution: the test can tell them apart.
    logits = slow_logits(prompt, [IDS.mask] * 2, shifted)
    at_once = np.exp(log_softmax(np.where(np.arange(12) == IDS.mask, -np.inf, logits)))
    assert not agrees(counts, (at_once[0][:, None] * at_once[1][None]).reshape(-1))
