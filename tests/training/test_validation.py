"""Validation is repeatable: no dropout, fixed noise, totals added before they are divided."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.steps import BATCHES, NETWORKS, ROWS, SPACTOR, SPANS, TOKENS, Bag
from support.xla import COMPILE_QUICKLY

from mixlm.losses.terms import Term
from mixlm.network import bind
from mixlm.objectives.causal import Causal
from mixlm.rng import row_keys
from mixlm.training.validation import ValidationStep, band_labels, frequency_bands, mean_terms

NO_BANDS = jnp.zeros(TOKENS.vocab_size, jnp.int32)


def validation(rate: float, objective):
    """(the parameters, the jitted validation) of networks that drop at `rate` where they are given dropout noise."""
    networks = NETWORKS | {"model": Bag(dropout_rate=rate), "generator": Bag(dropout_rate=rate)}
    params = {name: module.init(jax.random.key(1), *module.inputs())["params"] for name, module in networks.items()}
    run = jax.jit(ValidationStep(tuple(networks.items())).__call__, static_argnums=6, compiler_options=COMPILE_QUICKLY)

    def values(seed, index):
        batch = {"tokens": jnp.asarray(BATCHES[0]["tokens"])}
        terms = run(params, batch, jnp.int32(seed), jnp.int32(index), jnp.int32(0), NO_BANDS, objective)
        return {name: float(term.value) for name, term in terms.items()}

    return values


@pytest.mark.parametrize("objective", [SPANS, SPACTOR], ids=lambda objective: objective.name)
def test_no_dropout_and_noise_fixed_by_seed_and_index(objective):
    wet, dry = validation(0.5, objective), validation(0.0, objective)
    assert wet(3, 0) == wet(3, 0) == dry(3, 0)
    assert wet(3, 0) != wet(3, 1) and wet(3, 0) != wet(4, 0)


def term(total: float, count: float) -> Term:
    return Term(jnp.float32(total), jnp.float32(count))


def test_terms_are_added_before_they_are_divided():
    batches = [{"a": term(10, 2), "b": term(0, 0)}, {"a": term(1, 6), "b": term(3, 4)}]
    assert mean_terms(iter(batches)) == {"a": 11 / 8, "b": 3 / 4}
    assert mean_terms([]) == {}


def test_what_was_never_counted_is_zero():
    assert mean_terms([{"a": term(0, 0)}]) == {"a": 0.0}


def test_bands_hold_their_shares_of_the_text():
    counts = np.array([0, 50, 3, 30, 2, 10, 5])
    assert frequency_bands(counts, (0.8, 0.15, 0.05)).tolist() == [2, 0, 2, 0, 2, 1, 1]
    assert band_labels((0.8, 0.15, 0.05)) == ["top_80%", "next_15%", "rarest_5%"]
    assert band_labels((0.5, 0.5)) == ["top_50%", "rarest_50%"]


def test_the_bands_costs_are_those_of_their_tokens():
    causal = Causal(TOKENS)
    params = {"model": Bag().init(jax.random.key(1), *Bag().inputs())["params"]}
    batch = {"tokens": jnp.asarray(BATCHES[0]["tokens"])}
    counts = np.bincount(np.asarray(batch["tokens"]).ravel(), minlength=TOKENS.vocab_size)
    band_of = frequency_bands(counts, (0.6, 0.4))
    run = ValidationStep((("model", Bag()),), (0.6, 0.4))
    terms = jax.jit(
        lambda: run(params, batch, jnp.int32(0), jnp.int32(0), jnp.int32(0), jnp.asarray(band_of), causal)
    )()
    net = bind({"model": Bag()}, params)["model"]
    example = causal.corrupt(row_keys(0, 0, ROWS), batch)
    log_p = np.asarray(jax.nn.log_softmax(net.logits(net.hidden(example))), np.float64)
    for band, name in enumerate(("causal/top_60%", "causal/rarest_40%")):
        costs = [
            -log_p[row, place, token]
            for (row, place), token in np.ndenumerate(np.asarray(batch["tokens"]))
            if band_of[token] == band
        ]
        assert float(terms[name].count) == len(costs) > 0 and terms[name].weight == 0.0
        np.testing.assert_allclose(float(terms[name].value), np.mean(costs), rtol=1e-5)
