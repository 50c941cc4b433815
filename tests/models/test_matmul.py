"""`matmul` and `fuse_cotangents`: JAX's own values and gradients, in another order of computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixlm.models import matmul as module
from mixlm.models.matmul import WIDE, fuse_cotangents, matmul


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(7,), (2, 5, 7), (0, 7)])
@pytest.mark.parametrize("columns", [3, WIDE])
def test_value_and_gradients_are_those_of_a_product(shape, columns, dtype):
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=shape), dtype)
    kernel = jnp.asarray(draw.normal(size=(shape[-1], columns)), dtype)
    given = jnp.asarray(draw.normal(size=(*shape[:-1], columns)), dtype)
    value, pull = jax.vjp(matmul, x, kernel)
    wide = (np.asarray(array, np.float64) for array in (x, kernel, given))
    wide_x, wide_kernel, wide_given = wide
    rounding = {"rtol": 2e-2, "atol": 2e-1} if dtype == "bfloat16" else {"rtol": 1e-5, "atol": 1e-4}
    np.testing.assert_allclose(np.asarray(value, np.float64), wide_x @ wide_kernel, **rounding)
    of_x, kernel_gradient = pull(given)
    assert (of_x.dtype, kernel_gradient.dtype) == (x.dtype, kernel.dtype)
    np.testing.assert_allclose(np.asarray(of_x, np.float64), wide_given @ wide_kernel.T, **rounding)
    rows = wide_x.reshape(-1, shape[-1]).T @ wide_given.reshape(-1, columns)
    np.testing.assert_allclose(np.asarray(kernel_gradient, np.float64), rows, **rounding)


def test_under_vmap_each_run_has_its_own_product():
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(3, 4, 5)), jnp.float32)
    kernel = jnp.asarray(draw.normal(size=(3, 5, WIDE)), jnp.float32)

    def cost(x, kernel):
        return jnp.sum(matmul(x, kernel) ** 2)

    found = jax.vmap(jax.grad(cost, argnums=(0, 1)))(x, kernel)
    for row in range(3):
        for mapped, alone in zip(found, jax.grad(cost, argnums=(0, 1))(x[row], kernel[row])):
            np.testing.assert_allclose(mapped[row], alone, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("on", ["cpu", "tpu"])
def test_cotangents_are_fused_on_a_tpu_and_values_stay(on, monkeypatch):
    monkeypatch.setattr(module, "platform", lambda: on)
    a, b = jnp.linspace(-2, 2, 12).reshape(3, 4), jnp.linspace(1, 3, 12).reshape(3, 4)

    def gated(a, b):
        a, b = fuse_cotangents(a, b)
        return jnp.sum(jnp.tanh(a) * b)

    found = jax.grad(gated, argnums=(0, 1))(a, b)
    np.testing.assert_allclose(gated(a, b), np.sum(np.tanh(a) * b), rtol=1e-6)
    np.testing.assert_allclose(found[0], (1 - np.tanh(a) ** 2) * b, rtol=1e-5)
    np.testing.assert_allclose(found[1], np.tanh(a), rtol=1e-6)
    barriers = str(jax.make_jaxpr(jax.grad(gated, argnums=(0, 1)))(a, b)).count("optimization_barrier")
    assert barriers == (on == "tpu")
