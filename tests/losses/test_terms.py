"""Terms are summed before they are divided, and binary terms agree with NumPy."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from mixlm.losses.terms import Term, binary_terms, weighted_sum


def test_terms_add_before_they_divide():
    halves = Term(jnp.array(6.0), jnp.array(2.0), 10.0) + Term(jnp.array(1.0), jnp.array(5.0), 10.0)
    assert float(halves.value) == 1.0 and halves.weight == 10.0
    assert float(halves.total) == 7.0 and float(halves.count) == 7.0


def test_a_term_without_counts_is_zero_and_has_no_gradient():
    def loss(x):
        empty = Term(x * 0, jnp.zeros(()), 3.0)
        return weighted_sum(
            {"empty": empty, "full": Term(x * 4, jnp.array(2.0), 5.0), "seen": Term(x, jnp.ones(()), 0.0)}
        )

    assert float(loss(jnp.array(1.5))) == 15.0
    assert float(jax.grad(loss)(jnp.array(1.5))) == 10.0
    assert float(weighted_sum({})) == 0.0
    assert float((Term(jnp.zeros(()), jnp.zeros(())) + Term(jnp.zeros(()), jnp.zeros(()))).value) == 0.0


def test_a_count_below_one_still_divides():
    assert float(Term(jnp.array(0.5), jnp.array(0.25)).value) == 2.0


def test_binary_terms_agree_with_numpy():
    generator = np.random.default_rng(4)
    logits = (generator.normal(size=(3, 8)) * 4).astype(np.float32)
    logits[0, :4] = [80.0, -80.0, 80.0, -80.0]
    labels, counted = generator.uniform(size=(2, 3, 8)) < 0.5
    labels[0, :4], counted[0, :4] = [True, True, False, False], True
    terms = binary_terms("rtd", *map(jnp.asarray, (logits, labels, counted)), 7.0)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    other = 1 / (1 + np.exp(logits.astype(np.float64)))
    cost = -np.where(labels, np.log(p), np.log(other))
    assert set(terms) == {"rtd", "rtd/accuracy"}
    assert (float(terms["rtd"].weight), float(terms["rtd/accuracy"].weight)) == (7.0, 0.0)
    np.testing.assert_allclose(terms["rtd"].value, cost[counted].mean(), rtol=1e-6)
    np.testing.assert_allclose(terms["rtd/accuracy"].value, ((p > 0.5) == labels)[counted].mean(), rtol=1e-6)
    assert float(terms["rtd"].count) == counted.sum()
