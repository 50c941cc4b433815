"""TokenHead agrees with NumPy, and refuses what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from mixlm.errors import UserError
from mixlm.models.heads import TokenHead


def test_token_head_is_dense_gelu_dense():
    hidden = np.random.default_rng(0).normal(size=(2, 5, 32)).astype(np.float32)
    params = meta.unbox(jax.eval_shape(TokenHead(32).init, jax.random.key(0), jnp.asarray(hidden))["params"])
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 4, params)
    a = np.float64(hidden) @ params["dense"]["kernel"] + params["dense"]["bias"]
    gelu = 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
    expected = (gelu @ params["judge"]["kernel"] + params["judge"]["bias"])[..., 0]
    judged = TokenHead(32).apply({"params": params}, jnp.asarray(hidden))
    np.testing.assert_allclose(judged, expected, atol=1e-5)
    rough = TokenHead(32, dtype="bfloat16").apply({"params": params}, jnp.asarray(hidden))
    assert judged.dtype == rough.dtype == jnp.float32
    assert 0 < np.abs(rough - expected).max() < 0.1


def test_inputs_initialise_every_parameter():
    head = TokenHead(32)
    shapes = jax.eval_shape(head.init, jax.random.key(0), *head.inputs())["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 32 * 32 + 32 + 32 + 1


def test_heads_are_values():
    assert hash(TokenHead(32)) == hash(TokenHead(32)) and TokenHead(32) == TokenHead(32)


def test_a_wrong_width_or_dtype_is_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"TokenHead.emb_dim = 16, and the hidden states are 32 wide"):
        jax.eval_shape(TokenHead(16).init, jax.random.key(0), jnp.ones((1, 2, 32)))
    with pytest.raises(UserError, match="bfloat16"):
        TokenHead(32, dtype="bfloat")
