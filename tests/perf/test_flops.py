"""FLOPs of matrix products are counted from the jaxpr, loops and recomputation included."""

import jax
import jax.numpy as jnp
import pytest

from mixlm.perf.flops import flops_by_scope, matmul_flops

A, B = jnp.ones((5, 7)), jnp.ones((7, 11))
SQUARE = jnp.ones((6, 6))


def count(function, *arguments) -> float:
    return matmul_flops(jax.jit(function).trace(*arguments).jaxpr)


def dot(x, y):
    return x @ y


def test_a_product_costs_two_flops_for_each_multiplication():
    assert count(dot, A, B) == 2 * 5 * 7 * 11


def test_a_batched_einsum_counts_its_batch_and_all_that_is_contracted():
    x, y = jnp.ones((2, 3, 4, 5)), jnp.ones((2, 6, 4, 5))
    assert count(lambda x, y: jnp.einsum("bthk,bshk->bhts", x, y), x, y) == 2 * (2 * 4) * 3 * 6 * 5
    assert count(lambda x, y: jnp.einsum("bthk,bshk->ts", x, y), x, y) == 2 * 3 * 6 * (2 * 4 * 5)


def test_elementwise_work_is_no_matrix_product():
    assert count(lambda x: jnp.sum(jnp.tanh(x) * x), A) == 0


def test_a_scan_counts_each_iteration():
    assert count(lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=9)[0], SQUARE) == 9 * 2 * 6**3
    nested = jax.lax.scan
    twice = lambda c, _: (nested(lambda d, _: (d @ d, None), c, length=3)[0], None)  # noqa: E731
    assert count(lambda x: nested(twice, x, length=5)[0], SQUARE) == 15 * 2 * 6**3


def test_a_loop_of_known_length_is_a_scan():
    assert count(lambda x: jax.lax.fori_loop(0, 4, lambda _, c: c @ c, x), SQUARE) == 4 * 2 * 6**3


def test_of_a_conditional_the_most_expensive_branch_counts():
    branches = [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x @ x]
    assert count(lambda i, x: jax.lax.switch(i, branches, x), jnp.int32(0), SQUARE) == 3 * 2 * 6**3


def test_dead_code_does_not_count():
    assert count(lambda x: (x @ x, x + 1)[1], SQUARE) == 0
    both = jax.jit(lambda x: (x @ x, x + 1))
    assert count(lambda x: both(x)[1], SQUARE) == 0
    assert count(lambda x: jax.lax.scan(lambda c, _: (c + 1, c @ c), x, length=9)[0], SQUARE) == 0


def test_jit_inside_jit_is_looked_into():
    inner = jax.jit(dot)
    assert count(lambda x, y: inner(x, y) + inner(2 * x, y), A, B) == 2 * (2 * 5 * 7 * 11)


def test_a_gradient_costs_two_products_for_each_of_the_forward():
    both = jax.grad(lambda x, y: jnp.sum(jnp.sin(x @ y)), argnums=(0, 1))
    assert count(both, A, B) == 3 * 2 * 5 * 7 * 11
    one = jax.grad(lambda x, y: jnp.sum(jnp.sin(x @ y)))
    assert count(one, A, B) == 2 * 2 * 5 * 7 * 11


def test_recomputation_under_checkpoint_counts_again():
    def twice(x):
        return jnp.sum(jnp.sin(jnp.sin(x @ SQUARE) @ SQUARE))

    product = 2 * 6**3
    # Two forward and two for the gradient of x; under a checkpoint the two of the forward once more.
    assert count(jax.value_and_grad(twice), SQUARE) == 4 * product
    assert count(jax.value_and_grad(jax.checkpoint(twice)), SQUARE) == 6 * product


def test_a_function_with_its_own_gradient_counts_what_runs():
    @jax.custom_vjp
    def product(x, y):
        return x @ y

    # A gradient that takes one product more than the usual one: it must be seen.
    product.defvjp(lambda x, y: (x @ y, (x, y)), lambda kept, g: ((g @ kept[1].T) @ jnp.ones((7, 7)), kept[0].T @ g))
    one = 2 * 5 * 7 * 11
    assert count(product, A, B) == one
    assert count(jax.grad(lambda x, y: jnp.sum(product(x, y) ** 2), argnums=(0, 1)), A, B) == 3 * one + 2 * 5 * 7 * 7


@pytest.mark.parametrize("gradient", [False, True])
def test_xla_counts_the_same_where_nearly_all_is_matrix_products(gradient):
    def chain(x, y, z):
        return jnp.sum(((x @ y) @ z) ** 2)

    function = jax.value_and_grad(chain, argnums=(0, 1, 2)) if gradient else chain
    traced = jax.jit(function).trace(jnp.ones((64, 128)), jnp.ones((128, 96)), jnp.ones((96, 80)))
    cost = traced.lower().compile().cost_analysis()
    # XLA adds the squares and their sum, a few operations for each of 64 x 80 numbers.
    assert 0 <= cost["flops"] - matmul_flops(traced.jaxpr) <= 5 * 64 * 80


def test_products_are_counted_by_the_scope_that_they_belong_to_forward_and_back():
    def loss(w, x):
        def round_of(carry, rows):
            with jax.named_scope("outer"):
                return carry + jnp.sum(jnp.sin(rows @ w)), None

        with jax.named_scope("first"):
            x = jnp.sin(x @ w)
        return jax.lax.scan(round_of, 0.0, x.reshape(3, 2, 6))[0]

    scopes = flops_by_scope(jax.jit(jax.grad(loss, argnums=(0, 1))).trace(SQUARE, SQUARE).jaxpr)
    product = 2 * 6**3
    for name in ("first", "outer"):
        assert sum(flops for scope, flops in scopes.items() if name in scope) == 3 * product
    assert sum(scopes.values()) == 6 * product


def test_cudnns_attention_counts_as_the_plain_one_does(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)
    q, k = jnp.ones((2, 64, 4, 64), jnp.bfloat16), jnp.ones((2, 128, 4, 64), jnp.bfloat16)
    mask = jnp.ones((2, 1, 64, 128), bool)

    def total(implementation):
        def attended(q, k, v):
            out = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)
            return jnp.sum(out.astype(jnp.float32))

        return matmul_flops(jax.make_jaxpr(jax.value_and_grad(attended, (0, 1, 2)))(q, k, k))

    assert total("cudnn") == total("xla") == 6 * 2 * 2 * 4 * 64 * 128 * 64
