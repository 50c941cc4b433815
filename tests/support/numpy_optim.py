"""Update rules in NumPy, and trees of parameters for them."""

import jax
import jax.numpy as jnp
import numpy as np

from mixlm.optim.optimizer import Optimizer
from mixlm.schedules import Linear

SHAPES = {"wide": (6, 9), "tall": (9, 6), "cube": (3, 6, 8), "small": (3, 20), "vector": (7,), "scale": (5, 6)}


def some_tree(seed: int, scale: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    tree = {name: {"kernel": scale * rng.normal(size=shape)} for name, shape in SHAPES.items() if name != "scale"}
    tree["norm"] = {"scale": scale * rng.normal(size=SHAPES["scale"])}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


class SlowAdamW:
    """Loshchilov & Hutter 2019, algorithm 2, one leaf, float64."""

    def __init__(self):
        self.m = self.v = 0.0
        self.t = 0

    def step(self, grad, param, rate, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1):
        self.t += 1
        self.m = b1 * self.m + (1 - b1) * grad.astype(np.float64)
        self.v = b2 * self.v + (1 - b2) * grad.astype(np.float64) ** 2
        m_hat, v_hat = self.m / (1 - b1**self.t), self.v / (1 - b2**self.t)
        return param - rate * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * param)


def follow(rule, slow: dict, arguments: dict, decay: float) -> None:
    """Four steps of `rule` against the slow leaves, which decay where a leaf is a matrix called kernel."""
    optimizer = Optimizer(rule, Linear(0.1, 0.02, 4), clip_norm=None)
    params = {"model": some_tree(0)}
    state = optimizer.init(params)
    expected = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(params)}
    update = jax.jit(optimizer.update)
    for step in range(4):
        grads = {"model": some_tree(step + 1, scale=3.0)}
        params, state, stats = update(grads, state, params, jnp.int32(step))
        rate = 0.1 + (0.02 - 0.1) * step / 4
        np.testing.assert_allclose(stats["learning_rate"], rate, rtol=1e-6)
        for path, grad in jax.tree.leaves_with_path(grads):
            name = jax.tree_util.keystr(path)
            matrix = grad.ndim > 1 and "scale" not in name
            expected[name] = slow[name].step(
                np.asarray(grad), expected[name], rate, weight_decay=decay if matrix else 0.0, **arguments
            )
        for path, leaf in jax.tree.leaves_with_path(params):
            np.testing.assert_allclose(leaf, expected[jax.tree_util.keystr(path)], rtol=2e-4, atol=2e-6)


def names() -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path({"model": some_tree(0)})
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


def tree(leaves: dict) -> dict:
    """Nested as flax does it."""
    found: dict = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf
    return found
