"""Adafactor agrees with the paper's algorithm in NumPy, and with optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.numpy_optim import follow, names

from mixlm.optim.adafactor import Adafactor
from mixlm.optim.base import decayed


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


class SlowAdafactor:
    """Shazeer & Stern 2018, algorithm 4 (factored) and 5 (not), one leaf, float64."""

    def __init__(self, shape, factor_from: int):
        large = [axis for axis in np.argsort(shape)[-2:]] if len(shape) > 1 else []
        self.axes = large if large and min(shape[axis] for axis in large) >= factor_from else None
        self.row = self.column = self.full = 0.0
        self.t = 0

    def step(self, grad, param, rate, decay_rate=0.8, threshold=1.0, scaled=True, weight_decay=0.0):
        self.t += 1
        beta = 1.0 - self.t ** (-decay_rate)
        square = grad.astype(np.float64) ** 2 + 1e-30
        if self.axes is None:
            self.full = beta * self.full + (1 - beta) * square
            second = self.full
        else:
            first, last = self.axes
            self.row = beta * self.row + (1 - beta) * square.sum(axis=last, keepdims=True)
            self.column = beta * self.column + (1 - beta) * square.sum(axis=first, keepdims=True)
            second = self.row * self.column / self.row.sum(axis=first, keepdims=True)
        update = grad / np.sqrt(second)
        if threshold is not None:
            update = update / max(1.0, rms(update) / threshold)
        if scaled:
            update = update * max(1e-3, rms(param))
        return param - rate * (update + weight_decay * param)


@pytest.mark.parametrize("factor_from", [5, 128])
@pytest.mark.parametrize(
    ("arguments", "decay"),
    [
        ({}, 0.0),
        ({"threshold": None, "scaled": False}, 0.0),
        ({"decay_rate": 0.6, "threshold": 2.0}, 0.1),
    ],
)
def test_adafactor_agrees_with_the_paper(factor_from, arguments, decay):
    rule = Adafactor(
        decay_rate=arguments.get("decay_rate", 0.8),
        clipping_threshold=arguments.get("threshold", 1.0),
        multiply_by_parameter_scale=arguments.get("scaled", True),
        min_dim_size_to_factor=factor_from,
        weight_decay=decay,
    )
    slow = {name: SlowAdafactor(shape, factor_from) for name, shape in names().items()}
    assert any(leaf.axes for leaf in slow.values()) == (factor_from == 5)
    assert any(leaf.axes is None for leaf in slow.values())
    follow(rule, slow, arguments, decay)


def test_a_factored_state_is_small():
    state = Adafactor(min_dim_size_to_factor=128).transform().init({"kernel": jnp.zeros((256, 512))})
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 256 + 512 + 10


@pytest.mark.parametrize("rule", [Adafactor(), Adafactor(weight_decay=0.1, clipping_threshold=None)])
def test_adafactor_and_its_state_agree_with_optax(rule):
    params = {"kernel": jnp.linspace(-1, 1, 256 * 512).reshape(256, 512), "bias": jnp.linspace(1e-5, 1e-4, 7)}
    grads = jax.tree.map(lambda x: jnp.cos(7 * x), params)
    library = optax.adafactor(
        None,
        clipping_threshold=rule.clipping_threshold,
        weight_decay_rate=rule.weight_decay or None,
        weight_decay_mask=decayed,
    )
    (wanted, state), (found, ours) = (
        each.update(grads, each.init(params), params) for each in (library, rule.transform())
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), (found, ours), (wanted, state))
