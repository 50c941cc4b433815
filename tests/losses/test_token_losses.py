"""Token losses agree with released values and NumPy."""

import math
from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from support import places
from support.numpy_losses import numpy_cost_and_scale, random_case, softmax

from mixlm.errors import UserError
from mixlm.losses.score import score
from mixlm.losses.terms import Term
from mixlm.losses.token_losses import CrossEntropy, Focal, MiLe

GOLDEN = np.load(places.GOLDEN / "mile_focal.npz")


LOSSES = [CrossEntropy(), CrossEntropy(0.01), MiLe(1.0), MiLe(0.5, z_loss=0.02), Focal(2.0), Focal(1.0, z_loss=0.02)]


def numpy_mean_gradient(loss, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """d/dlogits of sum(w scale cost) / sum(counted + w (scale - 1)), the scale held fixed."""
    _, scale = numpy_cost_and_scale(loss, logits, targets)
    logits = np.asarray(logits, np.float64)
    p = softmax(logits)
    log_z = np.log(np.exp(logits).sum(-1))[..., None]
    gradient = p - np.eye(logits.shape[-1])[targets] + 2 * loss.z_loss * log_z * p
    return (weights * scale)[..., None] * gradient / np.sum((weights > 0) + weights * (scale - 1))


def mean_of(loss, logits, targets, weights=None) -> Term:
    """The loss's term where the hidden states are the logits themselves."""
    weights = jnp.ones(targets.shape) if weights is None else weights
    return score(lambda h: h, logits, targets, weights, loss).terms("term", loss)["term"]


def test_cross_entropy_and_entropy_agree_with_the_golden_values_per_token():
    logits, targets = jnp.asarray(GOLDEN["logits"], jnp.float32), jnp.asarray(GOLDEN["targets"], jnp.int32)
    cost, scale = MiLe(1.0)(logits, targets)
    np.testing.assert_allclose(cost, GOLDEN["cross_entropy"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scale - 1, GOLDEN["entropy"], rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(CrossEntropy()(logits, targets)[0], GOLDEN["cross_entropy"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("name", "loss"), [("mile", MiLe), ("focal", Focal)])
def test_normalised_losses_agree_with_the_golden_values(name: str, loss, gamma: float):
    logits, targets = jnp.asarray(GOLDEN["logits"], jnp.float32), jnp.asarray(GOLDEN["targets"], jnp.int32)
    np.testing.assert_allclose(mean_of(loss(gamma), logits, targets).value, GOLDEN[f"{name}_{gamma}"], rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_scales_and_gradients_agree_with_numpy(loss):
    _, _, targets, weights, _ = random_case(3, 6)
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6, 13)) * 2, jnp.float32)
    cost, scale = loss(logits, targets)
    wanted_cost, wanted_scale = numpy_cost_and_scale(loss, np.asarray(logits), np.asarray(targets))
    np.testing.assert_allclose(cost, wanted_cost, rtol=2e-6)
    np.testing.assert_allclose(scale, wanted_scale, rtol=2e-6)
    # No gradient flows through the scale: the hand-written gradient holds it fixed.
    gradient = jax.jit(jax.grad(lambda x: mean_of(loss, x, targets, weights).value))(logits)
    wanted = numpy_mean_gradient(loss, np.asarray(logits), np.asarray(targets), np.asarray(weights, np.float64))
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", [MiLe(1.0), Focal(2.0), CrossEntropy()])
def test_the_scale_itself_has_no_gradient(loss):
    gradient = jax.grad(lambda x: jnp.sum(loss(x, jnp.array([[0, 3]]))[1]))(jnp.array([[[1.0, 2.0, 0.0, 0.5]] * 2]))
    np.testing.assert_array_equal(gradient, np.zeros((1, 2, 4)))


@pytest.mark.parametrize("loss", [MiLe(0.0), Focal(0.0), MiLe(0.0, z_loss=0.01), Focal(0.0, z_loss=0.01)])
def test_gamma_zero_is_cross_entropy_with_its_gradient(loss):
    _, _, targets, weights, _ = random_case(2, 5)
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 13)), jnp.float32)
    # A prediction that is certain has scale 0 ** 0, which must be 1.
    logits = logits.at[0, 0].set(-1e9).at[0, 0, targets[0, 0]].set(0.0) if loss.z_loss == 0 else logits

    def value(loss, x):
        return mean_of(loss, x, targets, weights).value

    plain = CrossEntropy(loss.z_loss)
    np.testing.assert_allclose(value(loss, logits), value(plain, logits), rtol=1e-6)
    np.testing.assert_allclose(
        jax.jit(jax.grad(partial(value, loss)))(logits), jax.jit(jax.grad(partial(value, plain)))(logits), atol=1e-7
    )


@pytest.mark.parametrize("loss", [CrossEntropy(), MiLe(0.5), MiLe(2.0), Focal(0.5), Focal(2.0)])
def test_uniform_logits_cost_log_v_under_every_loss(loss):
    targets = random_case(2, 9, vocab=37)[2]
    for level in (0.0, -7.0):
        np.testing.assert_allclose(mean_of(loss, jnp.full((2, 9, 37), level), targets).value, math.log(37), rtol=2e-6)


@pytest.mark.parametrize("loss", [CrossEntropy(), MiLe(1.0), Focal(1.0)])
def test_large_logits_stay_finite(loss):
    rows = [[shift, shift + 1, shift - 1e4] for shift in (1e4, -1e4) for _ in range(3)]
    targets = jnp.array([[0, 1, 2, 0, 1, 2]])
    found = jax.jit(jax.value_and_grad(lambda x: mean_of(loss, x, targets).value))(jnp.array([rows]))
    assert all(np.isfinite(x).all() for x in found)


@pytest.mark.parametrize(
    "make", [lambda: MiLe(-1.0), lambda: Focal(-0.5), lambda: CrossEntropy(-0.1), lambda: MiLe(z_loss=-1.0)]
)
def test_a_negative_gamma_or_z_loss_is_refused(make):
    with pytest.raises(UserError, match=r"gamma|z_loss"):
        make()
