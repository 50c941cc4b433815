"""Scores are weighted sums; chunks change memory alone."""

import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from support.numpy_losses import numpy_cost_and_scale, random_case

from mixlm.losses.score import Scored, score
from mixlm.losses.token_losses import CrossEntropy, Focal, MiLe
from mixlm.objectives.corruption import sample


def head_of(head):
    return lambda hidden: jnp.einsum("...d,dv->...v", hidden, head).astype(jnp.float32)


def scored_in(block: int, loss, case, counted=None) -> Scored:
    """In blocks of so many positions of every row."""
    hidden, head, targets, weights, noise = case
    max_logits = block * len(targets) * head.shape[-1]
    return score(
        head_of(head), hidden, targets, weights, loss, counted, pick=sample, noise=noise, max_logits=max_logits
    )


def test_no_gradient_flows_through_the_scale_of_a_loss_that_forgot_to_stop_it():
    def cost_of_one(logits, targets):
        return jnp.ones(targets.shape), jnp.sum(logits, axis=-1)

    hidden, head, targets, weights, noise = random_case(2, 7)
    for block in (3, 7):
        total = jax.jit(lambda h, b=block: scored_in(b, cost_of_one, (h, head, targets, weights, noise)).total)
        np.testing.assert_array_equal(jax.grad(total)(hidden), np.zeros(hidden.shape))


@pytest.mark.parametrize("block", [3, 128])
def test_a_score_holds_the_weighted_sums(block: int):
    loss, case = MiLe(1.0, z_loss=0.01), random_case(3, 7)
    hidden, head, targets, weights, _ = map(np.asarray, case)
    logits = hidden.astype(np.float64) @ head
    cost, scale = numpy_cost_and_scale(loss, logits, targets)
    plain, _ = numpy_cost_and_scale(CrossEntropy(), logits, targets)
    counted = weights > 0
    found = scored_in(block, loss, case)
    assert 0 < counted.sum() < counted.size
    np.testing.assert_allclose(found.total, np.sum(weights * scale * cost), rtol=1e-5)
    np.testing.assert_allclose(found.count, np.sum(counted + weights * (scale - 1)), rtol=1e-5)
    np.testing.assert_allclose(found.cross_entropy, np.sum(weights * plain), rtol=1e-5)
    right = (np.argmax(logits, -1) == targets) & counted
    assert (float(found.counted), float(found.scored), float(found.right)) == (
        counted.sum(),
        counted.sum(),
        right.sum(),
    )
    terms = found.terms("lm", loss, 2.0)
    assert {name: float(term.weight) for name, term in terms.items()} == {
        "lm": 2.0,
        "lm/accuracy": 0.0,
        "lm/cross_entropy": 0.0,
    }
    np.testing.assert_allclose(terms["lm/cross_entropy"].value, np.sum(weights * plain) / counted.sum(), rtol=1e-5)
    np.testing.assert_allclose(terms["lm/accuracy"].value, right.sum() / counted.sum(), rtol=1e-6)
    assert set(found.terms("lm", CrossEntropy())) == {"lm", "lm/accuracy"}


@pytest.mark.parametrize("block", [2, 128])
def test_counted_overrides_the_divisor(block: int):
    case = random_case(2, 5)
    everything = scored_in(block, CrossEntropy(), case, counted=jnp.ones((2, 5)))
    assert float(everything.count) == 10.0
    np.testing.assert_allclose(everything.total, scored_in(block, CrossEntropy(), case).total, rtol=1e-6)


def value_and_gradients(block: int, loss, case, wrap):
    _, _, targets, weights, noise = case

    def cost(hidden, head):
        found = scored_in(block, loss, (hidden, head, targets, weights, noise))
        return 3 * found.terms("term", loss)["term"].value, found

    return jax.jit(jax.value_and_grad(wrap(cost), argnums=(0, 1), has_aux=True))(*case[:2])


def assert_same(found, wanted, rtol: float):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * max(np.abs(other).max(), 1e-3))


@pytest.mark.parametrize(
    ("length", "block", "loss", "wrap"),
    [
        (8, 4, CrossEntropy(0.01), lambda f: f),
        (8, 4, MiLe(1.0), jax.jit),
        (7, 3, MiLe(0.5, z_loss=0.01), lambda f: f),
        (7, 3, Focal(2.0), jax.checkpoint),
        (9, 8, CrossEntropy(), jax.jit),
        (5, 1, MiLe(2.0), lambda f: jax.jit(jax.checkpoint(f))),
    ],
)
def test_chunks_change_neither_sums_nor_picks_nor_gradients(length: int, block: int, loss, wrap):
    case = random_case(3, length, seed=length)
    found = value_and_gradients(block, loss, case, wrap)
    wanted = value_and_gradients(length, loss, case, lambda f: f)
    np.testing.assert_array_equal(found[0][1].picked, wanted[0][1].picked)
    assert found[0][1].picked.shape == (3, length)
    assert np.abs(wanted[1][0]).max() > 0.01 and np.abs(wanted[1][1]).max() > 0.01
    assert_same(found, wanted, 2e-6)


def test_chunks_of_bfloat16_hidden_states_agree_up_to_rounding():
    hidden, *rest = random_case(3, 7)
    case = (hidden.astype(jnp.bfloat16), *rest)
    found = value_and_gradients(3, CrossEntropy(), case, jax.jit)
    wanted = value_and_gradients(7, CrossEntropy(), case, jax.jit)
    assert found[1][0].dtype == jnp.bfloat16 and found[1][1].dtype == jnp.float32
    assert_same(found[0], wanted[0], 1e-6)
    assert_same(found[1][0], wanted[1][0], 2**-7)  # two roundings to eight bits
    assert_same(found[1][1], wanted[1][1], 1e-5)


@pytest.mark.parametrize("block", [3, 128])
def test_positions_of_weight_zero_contribute_nothing(block: int):
    hidden, head, targets, _, noise = random_case(2, 7)
    case = (hidden, head, targets, jnp.zeros((2, 7)), noise)
    (value, found), gradients = value_and_gradients(block, MiLe(1.0), case, lambda f: f)
    assert float(value) == 0.0 and float(found.count) == 0.0
    assert all(np.all(np.asarray(gradient) == 0) for gradient in gradients)
    weights = jnp.ones((2, 7)).at[:, 4].set(0.0)
    _, (of_hidden, _) = value_and_gradients(block, MiLe(1.0), (hidden, head, targets, weights, noise), lambda f: f)
    assert np.all(np.asarray(of_hidden)[:, 4] == 0) and np.all(np.abs(of_hidden)[:, 3].max(-1) > 0)


@pytest.mark.parametrize("loss", [CrossEntropy(), MiLe(1.0)])
@pytest.mark.parametrize("block", [3, 7])
def test_only_the_total_has_a_gradient(loss, block: int):
    hidden, *rest = random_case(2, 7)

    def others(hidden):
        found = scored_in(block, loss, (hidden, *rest))
        return found.count + found.cross_entropy + found.right

    np.testing.assert_array_equal(jax.jit(jax.grad(others))(hidden), np.zeros(hidden.shape))


def array_sizes(jaxpr):
    """The sizes of all values that a jaxpr makes, those of the jaxprs inside of it included."""
    for equation in jaxpr.eqns:
        for value in (*equation.invars, *equation.outvars):
            yield math.prod(getattr(value.aval, "shape", ()))
        for parameter in jax.tree.leaves(
            dict(equation.params), is_leaf=lambda x: isinstance(x, (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr))
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if isinstance(inner, jax.extend.core.Jaxpr):
                yield from array_sizes(inner)


@pytest.mark.parametrize("loss", [CrossEntropy(0.01), MiLe(1.0), Focal(1.0)])
def test_no_array_holds_all_logits_in_forward_or_backward_pass(loss):
    case = random_case(2, 24, vocab=50, dim=3)
    whole = 2 * 24 * 50

    def largest(block: int) -> int:
        return max(
            array_sizes(
                jax.make_jaxpr(lambda *x: value_and_gradients(block, loss, (*x, *case[2:]), lambda f: f))(
                    *case[:2]
                ).jaxpr
            )
        )

    assert largest(128) >= whole  # the walk does see whole logits where they are made
    assert largest(4) <= whole // 6


def test_chunks_on_accelerators_have_at_least_480_tokens(monkeypatch):
    """With fewer, a block's products take less time than reading the head's matrix."""

    def rounds(vocab: int) -> list[int]:
        def total(hidden):
            return score(
                lambda x: x @ jnp.ones((2, vocab)), hidden, *columns, CrossEntropy(), max_logits=1000 * 10
            ).total

        hidden, columns = jnp.ones((2, 960, 2)), (jnp.zeros((2, 960), jnp.int32), jnp.ones((2, 960)))
        jaxpr = jax.make_jaxpr(jax.grad(total))(hidden)
        return [equation.params["length"] for equation in jaxpr.eqns if equation.primitive.name == "scan"]

    assert (rounds(10), rounds(100)) == ([2], [20])
    monkeypatch.setattr("mixlm.losses.chunked.platform", lambda: "tpu")
    assert (rounds(10), rounds(100)) == ([2], [4])


def test_logits_in_memory_do_not_grow_with_rows_length_or_vocabulary():
    def largest(rows: int, length: int, vocab: int) -> int:
        case = random_case(rows, length, vocab, dim=1)

        def cost(hidden, head):
            return score(head_of(head), hidden, *case[2:4], CrossEntropy(), max_logits=1600).total

        return max(array_sizes(jax.make_jaxpr(jax.grad(cost, argnums=(0, 1)))(*case[:2]).jaxpr))

    assert largest(8, 32, 50) == largest(16, 32, 50) == largest(8, 64, 50) == largest(8, 32, 100) == 1600


@pytest.mark.parametrize("loss", [CrossEntropy(), MiLe(1.0), MiLe(0.5), Focal(2.0)])
def test_scales_are_normalised_over_weighted_positions(loss):
    # Sure wherever a token is seen and uniform where it is masked: the cost of a token is log V, by 1/p and any scale.
    vocab, masked = 7, np.array([1, 0, 0, 1, 0, 1, 0, 0], bool)
    targets = np.arange(8)[None, :] % vocab
    logits = jnp.asarray(np.where(masked[None, :, None], 0.0, 80.0 * np.eye(vocab)[targets]), jnp.float32)
    weights = jnp.asarray(masked[None, :] * 8 / 3, jnp.float32)
    found = score(lambda hidden: hidden, logits, jnp.asarray(targets), weights, loss, counted=jnp.ones((1, 8)))
    np.testing.assert_allclose(found.terms("x", loss)["x"].value, np.log(vocab), rtol=1e-5)
