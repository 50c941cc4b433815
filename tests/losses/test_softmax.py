"""log Z, target logit, entropy and argmax of logits, and their gradients."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.numpy_losses import softmax

from mixlm.losses.softmax import is_first_largest, normalizer_chosen_entropy


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 5), st.lists(st.integers(-2, 2), min_size=6, max_size=6))
def test_ties_are_resolved_as_by_argmax(vocab: int, target: int, numbers: list[int]):
    logits = jnp.asarray([numbers[:vocab]], jnp.float32)
    right = is_first_largest(logits, jnp.asarray([target % vocab]))
    assert bool(right[0]) == (int(np.argmax(numbers[:vocab])) == target % vocab)


@pytest.mark.parametrize("on", ["cpu", "tpu"])
def test_log_z_and_target_logit_have_separate_gradients(on, monkeypatch):
    monkeypatch.setattr("mixlm.losses.softmax.platform", lambda: on)
    draw = np.random.default_rng(0)
    logits, targets = jnp.asarray(draw.normal(size=(3, 4, 7)), jnp.float32), jnp.asarray(draw.integers(0, 7, (3, 4)))
    of_log_z, of_chosen = draw.normal(size=(2, 3, 4)).astype(np.float32)
    values, pull = jax.vjp(lambda x: normalizer_chosen_entropy(x, targets), logits)
    (found,) = pull((jnp.asarray(of_log_z), jnp.asarray(of_chosen), jnp.ones((3, 4))))
    wanted = of_log_z[..., None] * softmax(logits) + of_chosen[..., None] * np.eye(7)[targets]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    p = softmax(np.asarray(logits, np.float64))
    np.testing.assert_allclose(values[2], -np.sum(p * np.log(p), axis=-1), rtol=1e-5)


@pytest.mark.parametrize("at", [0.0, 1e4])
def test_entropy_is_invariant_to_shifted_logits(at):
    logits = np.asarray([[0.0, 0.0, -90.0, 0.0], [0.0, -30.0, -60.0, -1e10]], np.float32) + np.float32(at)
    _, _, entropy = normalizer_chosen_entropy(jnp.asarray(logits), jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(entropy, [np.log(3), 30 * np.exp(-30.0)], atol=1e-6)
