"""Muon agrees with the release in NumPy, and with optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.numpy_optim import SlowAdamW, tree

from mixlm.optim.muon import Muon, orthogonalised
from mixlm.optim.optimizer import Optimizer
from mixlm.schedules import Linear

# A leaf of each kind, and whether Muon turns it into an orthogonal matrix.
KINDS = {
    "model/layer_0/query/kernel": ((6, 9), True),
    "model/layer_0/wo/kernel": ((9, 6), True),
    "model/layers/wi/kernel": ((3, 6, 8), True),
    "model/head/dense/kernel": ((7, 7), True),
    "model/token_embedder/embedding": ((20, 6), False),
    "model/relpos_bias/rel_embedding": ((4, 8), False),
    "model/logits_dense/kernel": ((6, 20), False),
    "model/layers/norm/scale": ((3, 6), False),
    "model/layers/wi/bias": ((3, 8), False),
    "model/norm/scale": ((6,), False),
    "model/judge/kernel": ((7, 1), False),
}


def kinds(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, (shape, _) in KINDS.items()}


def slow_orthogonalised(matrix: np.ndarray, steps: int) -> np.ndarray:
    """Through the singular values, on which the quintic acts one by one."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (np.linalg.norm(values) + 1e-7)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ np.diag(values) @ right


class SlowMuon(SlowAdamW):
    """The Dual paper's release, one leaf, float64."""

    def __init__(self, matrix: bool, nesterov: bool, steps: int):
        super().__init__()
        self.matrix, self.nesterov, self.steps = matrix, nesterov, steps
        self.momentum = 0.0

    def step(self, grad, param, rate, weight_decay):
        grad = np.asarray(grad, np.float64)
        if not self.matrix:
            return super().step(grad, param, rate, weight_decay=weight_decay)
        self.momentum = 0.95 * self.momentum + grad
        ahead = grad + 0.95 * self.momentum if self.nesterov else self.momentum
        layers = ahead if ahead.ndim == 3 else ahead[None]
        update = np.reshape([slow_orthogonalised(layer, self.steps) for layer in layers], grad.shape)
        scale = 0.2 * np.sqrt(max(grad.shape[-2:]))
        return (1 - rate * weight_decay) * param - rate * scale * update


@pytest.mark.parametrize(("nesterov", "steps", "vectors"), [(True, 5, True), (False, 3, False)])
def test_muon_agrees_with_the_release(nesterov, steps, vectors):
    rule = Muon(nesterov=nesterov, ns_steps=steps, weight_decay=0.3, decay_vectors=vectors)
    optimizer = Optimizer(rule, Linear(0.1, 0.02, 4), clip_norm=None)
    expected = {name: np.asarray(leaf, np.float64) for name, leaf in kinds(0).items()}
    slow = {name: SlowMuon(matrix, nesterov, steps) for name, (_, matrix) in KINDS.items()}
    params = tree(kinds(0))
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(4):
        params, state, _ = update(tree(kinds(step + 1)), state, params, jnp.int32(step))
        for name, grad in kinds(step + 1).items():
            is_vector = grad.ndim == 1 or name.endswith(("scale", "bias"))
            decay = 0.3 if vectors or not is_vector else 0.0
            expected[name] = slow[name].step(grad, expected[name], 0.1 - 0.02 * step, decay)
        jax.tree.map(
            lambda found, want: np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-5), params, tree(expected)
        )


def test_the_first_direction_of_a_matrix_agrees_with_optax():
    theirs = optax.contrib.muon(1.0, consistent_rms=0.2)
    for shape in ((6, 9), (9, 6), (8, 8)):
        params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)}
        found, _ = Muon(weight_decay=0.0).transform().update(params, Muon().transform().init(params), params)
        expected, _ = theirs.update(params, theirs.init(params), params)
        np.testing.assert_allclose(found["kernel"], expected["kernel"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_newton_schulz_brings_the_singular_values_near_one(dtype, scale):
    matrix = scale * np.random.default_rng(1).normal(size=(3, 24, 40))
    found = orthogonalised(jnp.asarray(matrix, jnp.float32), dtype=dtype)
    assert found.dtype == jnp.float32
    values = np.linalg.svd(np.asarray(found), compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.3
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    cosine = np.sum(np.asarray(found) * (left @ right)) / np.linalg.norm(found) / np.linalg.norm(left @ right)
    assert cosine > 0.98
    assert not np.any(orthogonalised(jnp.zeros((4, 3)), dtype=dtype))


def test_an_excluded_name_goes_to_adam():
    params = {"mlp": {"kernel": jnp.eye(3)}, "out": {"kernel": jnp.eye(3)}}
    sizes = jax.tree.map(jnp.size, Muon(excluded=("mlp",)).transform().init(params)[0].second)
    assert sizes == {"mlp": {"kernel": 9}, "out": {"kernel": 1}}
