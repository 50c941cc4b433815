"""T5's relative buckets and bias agree with integer arithmetic and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.relative_buckets import slow_bucket

from mixlm.models import relative_position


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("buckets, far", [(32, 128), (8, 20), (64, 256)])
def test_buckets_are_exact_at_every_distance(bidirectional, buckets, far):
    found = relative_position.relative_buckets(far, buckets, bidirectional=bidirectional)
    expected = [slow_bucket(relative, bidirectional, buckets, far) for relative in range(-far, far + 1)]
    np.testing.assert_array_equal(found, expected)
    ends = [slow_bucket(relative, bidirectional, buckets, far) for relative in (-10 * far, 10 * far)]
    assert [found[0], found[-1]] == ends  # so that clipping loses nothing


@pytest.mark.parametrize("length", [1, 7, 300])
def test_bias_by_index_and_by_positions_agree_in_value_and_gradient(length):
    relpos = relative_position.RelativeBias(num_heads=2, num_buckets=32, max_distance=128, bidirectional=True)
    table = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32)), jnp.float32)
    pull = jnp.asarray(np.random.default_rng(1).normal(size=(1, 2, length, length)), jnp.float32)
    positions = jnp.arange(5, 5 + length)[None]

    def pulled(table, positions):
        bias = relpos.apply({"params": {"rel_embedding": table}}, length, positions)
        return (bias * pull).sum(), bias

    by_index, by_positions = (jax.grad(pulled, has_aux=True)(table, p) for p in (None, positions))
    index = np.array([[slow_bucket(s - t, True) for s in range(length)] for t in range(length)])
    np.testing.assert_array_equal(by_index[1][0], np.asarray(table)[:, index])
    np.testing.assert_array_equal(by_index[1], by_positions[1])
    summed = np.zeros((2, 32))
    np.add.at(summed, (slice(None), index), np.float64(pull[0]))
    np.testing.assert_allclose(by_index[0], summed, atol=1e-3)
    np.testing.assert_allclose(by_positions[0], summed, atol=1e-3)
