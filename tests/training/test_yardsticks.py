"""Yardsticks are those of the very targets that validation scores, by counts made slowly."""

import math
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.steps import BATCHES, LENGTH, ROWS, SPACTOR, SPANS, TOKENS
from support.xla import COMPILE_QUICKLY

from mixlm.objectives.causal import Causal
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.objectives.mixing import PerExample, Sum
from mixlm.rng import row_keys
from mixlm.training.yardsticks import NOTHING, Bigrams, Pairs, label_entropy, yardsticks

SIZE = TOKENS.vocab_size


def by_hand(trained: list[list[int]], rows: list[list[int]], scored: list[list[bool]]) -> tuple[float, float]:
    """(Unigram entropy, Witten-Bell bigram cost) of the scored tokens of rows, by dictionaries."""
    pairs, alone = Counter(), Counter()
    for row in trained:
        pairs.update(zip([None, *row], row))
        alone.update(row)
    total = sum(alone.values())

    def p(token, before):
        seen = {b: n for (a, b), n in pairs.items() if a == before}
        back = (alone[token] + 1) / (total + SIZE)
        if not seen:
            return back
        return (seen.get(token, 0) + len(seen) * back) / (sum(seen.values()) + len(seen))

    said = [(x, y) for row, marks in zip(rows, scored) for x, y, m in zip(row, [None, *row], marks) if m]
    share = Counter(x for x, _ in said)
    entropy = -sum(n / len(said) * math.log(n / len(said)) for n in share.values())
    return entropy, -sum(math.log(p(x, y)) for x, y in said) / len(said)


def prepared(*objectives, steps=3):
    """A run as far as yardsticks look at it: it trains on the batches from 2 on, and the first 2 are its validation."""

    def rows(step, batch_size, places, before):
        return BATCHES[2 + step]["tokens"]

    recipe = SimpleNamespace(
        validated=objectives, batch_size=ROWS, block_length=LENGTH, before=0, seed=5, steps=steps, tokens=TOKENS
    )
    blocks = SimpleNamespace(rows=rows, num_tokens=steps * ROWS * LENGTH)
    return SimpleNamespace(recipe=recipe, train_blocks=blocks, validation_batches=BATCHES[:2])


def corrupted(objective, batches):
    corrupt = jax.jit(objective.corrupt, compiler_options=COMPILE_QUICKLY)
    keys = [row_keys(5, index, ROWS) for index in range(len(batches))]
    return [corrupt(key, {"tokens": jnp.asarray(batch["tokens"])}) for key, batch in zip(keys, batches)]


@pytest.mark.parametrize("objective", [Causal(TOKENS), SPANS], ids=lambda each: each.name)
def test_they_are_over_the_very_targets_that_validation_scores(objective):
    examples, trained = corrupted(objective, BATCHES[:2]), corrupted(objective, BATCHES[2:5])
    rows = [row for each in examples for row in each.decoder_target_tokens.tolist()]
    scored = [row for each in examples for row in (each.decoder_loss_weights > 0).tolist()]
    counted = [row for each in trained for row in each.decoder_target_tokens.tolist()]
    unigram, bigram = by_hand(counted, rows, scored)
    name = f"yardstick/{objective.name}"
    found = yardsticks(prepared(objective), {f"validation/{objective.name}": 1.0})
    assert found == {f"{name}/unigram": pytest.approx(unigram), f"{name}/bigram": pytest.approx(bigram)}


def test_the_generator_is_measured_by_what_it_fills():
    # Without networks, masks stand where its samples would.
    def both(keys, batch):
        return SPACTOR.targets(keys, batch)["generator"], SPACTOR.shown(None, keys, batch)

    filled, (read, before) = jax.jit(both)(row_keys(5, 0, ROWS), {"tokens": jnp.asarray(BATCHES[0]["tokens"])})
    np.testing.assert_array_equal(filled.scored, read.encoder_input_tokens == TOKENS.mask)
    np.testing.assert_array_equal(filled.tokens, before)
    figures = {f"validation/{name}": 1.0 for name in ("generator", "rtd", "span_corruption")}
    found = yardsticks(prepared(SPACTOR, steps=1), figures | {"validation/rtd/replaced": 0.14})
    assert {name.removeprefix("yardstick/") for name in found} == {
        "generator/unigram", "generator/bigram", "span_corruption/unigram", "span_corruption/bigram",
        "rtd/labels", "rtd/majority",
    }  # fmt: skip


def test_rows_of_a_mixture_count_for_their_own_objective():
    mix = PerExample((Causal(TOKENS), MaskedLM(TOKENS)), (0.5,))
    keys, batch = row_keys(5, 0, ROWS), {"tokens": jnp.asarray(BATCHES[0]["tokens"])}
    found, which = jax.jit(lambda keys, batch: (mix.targets(keys, batch), mix.assigned(keys)))(keys, batch)
    for number, name in enumerate(("causal", "masked_lm")):
        np.testing.assert_array_equal(np.asarray(found[name].scored).any(axis=1), np.asarray(which) == number)
    both = Sum((Causal(TOKENS), SPACTOR), (1.0, 1.0))
    names: list[str] = []
    jax.make_jaxpr(lambda keys, batch: names.extend(both.targets(keys, batch)))(keys, batch)
    assert set(names) == {"causal", "generator", "span_corruption"}


tokens = st.lists(st.integers(0, 5), min_size=1, max_size=40)


@settings(deadline=None, max_examples=50)
@given(tokens, tokens)
def test_a_bigram_model_is_a_distribution(trained, wanted):
    before = np.array([NOTHING, *trained[:-1]])
    model = Bigrams(
        Pairs(before, np.array(trained), np.ones(len(trained), bool)),
        SimpleNamespace(tokens=SimpleNamespace(vocab_size=6)),
    )
    # Over all tokens after one, the probabilities add up to 1.
    for first in {NOTHING, *wanted}:
        after = [Pairs(np.array([first]), np.array([token]), np.array([True])) for token in range(6)]
        costs = [model.cost(each) for each in after]
        assert sum(map(math.exp, (-cost for cost in costs))) == pytest.approx(1)


def test_labels():
    assert label_entropy(0.5) == pytest.approx(math.log(2)) and label_entropy(0.0) == 0.0
    found = yardsticks(prepared(), {"validation/rtd/replaced": 0.14})
    assert found == {
        "yardstick/rtd/labels": pytest.approx(-0.14 * math.log(0.14) - 0.86 * math.log(0.86)),
        "yardstick/rtd/majority": pytest.approx(0.86),
    }
