"""AdamW and LAMB agree with the papers' algorithms in NumPy, and with optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.numpy_optim import SlowAdamW, follow, names, some_tree

from mixlm.optim.adamw import AdamW
from mixlm.optim.base import decayed
from mixlm.optim.lamb import LAMB


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_agrees_with_the_paper(decay):
    slow = {name: SlowAdamW() for name in names()}
    follow(AdamW(weight_decay=decay), slow, {}, decay)


class SlowLAMB(SlowAdamW):
    """You et al. 2020, algorithm 2, one leaf, float64; the releases leave the undecayed leaves to Adam."""

    def __init__(self, most=np.inf, always=False):
        super().__init__()
        self.most, self.always = most, always

    def step(self, grad, param, rate, weight_decay):
        update = param - super().step(grad, param, 1.0, b2=0.98, weight_decay=weight_decay)
        if weight_decay or self.always:
            length, wanted = np.linalg.norm(update), np.linalg.norm(param)
            update = update * (min(wanted / length, self.most) if length and wanted else 1.0)
        return param - rate * update


@pytest.mark.parametrize("arguments", [{}, {"most": 0.4}, {"always": True}])
def test_lamb_agrees_with_the_paper(arguments):
    rule = LAMB(
        weight_decay=0.3,
        max_trust_ratio=arguments.get("most"),
        adapt_undecayed=arguments.get("always", False),
    )
    follow(rule, {name: SlowLAMB(**arguments) for name in names()}, {}, 0.3)


def test_lamb_that_adapts_all_leaves_agrees_with_optax():
    ours = LAMB(adapt_undecayed=True).transform()
    theirs = optax.lamb(1.0, b2=0.98, eps=1e-8, weight_decay=0.1, mask=decayed)
    params = some_tree(0) | {"zero": {"kernel": jnp.zeros((3, 4))}}
    states = [ours.init(params), theirs.init(params)]
    for seed in range(3):
        grads = some_tree(seed + 1) | {"zero": {"kernel": jnp.full((3, 4), float(seed != 1))}}
        (found, states[0]), (expected, states[1]) = (
            transform.update(grads, state, params) for transform, state in zip((ours, theirs), states, strict=True)
        )
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7), found, expected)
