"""Token losses agree with released values and NumPy; chunks change memory alone."""

import math
from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import places

from mixlm.errors import UserError
from mixlm.losses.score import Scored, score
from mixlm.losses.softmax import is_first_largest, normalizer_chosen_entropy
from mixlm.losses.terms import Term, binary_terms, weighted_sum
from mixlm.losses.token_losses import CrossEntropy, Focal, MiLe
from mixlm.objectives.corruption import sample

GOLDEN = np.load(places.GOLDEN / "mile_focal.npz")
LOSSES = [CrossEntropy(), CrossEntropy(0.01), MiLe(1.0), MiLe(0.5, z_loss=0.02), Focal(2.0), Focal(1.0, z_loss=0.02)]


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def numpy_cost_and_scale(loss, logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The three losses from their formulas, in float64."""
    logits = np.asarray(logits, np.float64)
    p = softmax(logits)
    log_z = np.log(np.exp(logits).sum(-1))
    said = np.take_along_axis(p, targets[..., None], -1)[..., 0]
    cost = -np.log(said) + loss.z_loss * log_z**2
    if isinstance(loss, MiLe):
        return cost, (1 - np.sum(p * np.log(p), -1)) ** loss.gamma
    return cost, (1 - said) ** loss.gamma if isinstance(loss, Focal) else np.ones_like(cost)


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


def random_case(rows: int, length: int, vocab: int = 13, dim: int = 5, seed: int = 0):
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(rows, length, dim)).astype(np.float32)
    head = generator.normal(size=(dim, vocab)).astype(np.float32)
    targets = generator.integers(0, vocab, (rows, length)).astype(np.int32)
    weights = (generator.uniform(0.5, 3, (rows, length)) * (generator.uniform(size=(rows, length)) < 0.7)).astype(
        np.float32
    )
    noise = generator.uniform(size=(rows, length)).astype(np.float32)
    return tuple(jnp.asarray(x) for x in (hidden, head, targets, weights, noise))


def head_of(head):
    return lambda hidden: jnp.einsum("...d,dv->...v", hidden, head).astype(jnp.float32)


def scored_in(block: int, loss, case, counted=None) -> Scored:
    """In blocks of so many positions of every row."""
    hidden, head, targets, weights, noise = case
    max_logits = block * len(targets) * head.shape[-1]
    return score(
        head_of(head), hidden, targets, weights, loss, counted, pick=sample, noise=noise, max_logits=max_logits
    )


# ---- the losses -------------------------------------------------------------------------------------------------


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


def test_no_gradient_flows_through_the_scale_of_a_loss_that_forgot_to_stop_it():
    def cost_of_one(logits, targets):
        return jnp.ones(targets.shape), jnp.sum(logits, axis=-1)

    hidden, head, targets, weights, noise = random_case(2, 7)
    for block in (3, 7):
        total = jax.jit(lambda h, b=block: scored_in(b, cost_of_one, (h, head, targets, weights, noise)).total)
        np.testing.assert_array_equal(jax.grad(total)(hidden), np.zeros(hidden.shape))


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


# ---- terms ------------------------------------------------------------------------------------------------------


def test_terms_add_before_they_divide():
    halves = Term(jnp.array(6.0), jnp.array(2.0), 10.0) + Term(jnp.array(1.0), jnp.array(5.0), 10.0)
    assert float(halves.value) == 1.0 and halves.weight == 10.0
    assert float(halves.total) == 7.0 and float(halves.count) == 7.0


def test_a_term_without_counts_is_zero_and_has_no_gradient():
    def loss(x):
        empty = Term(x * 0, jnp.zeros(()), 3.0)
        return weighted_sum(
            {"empty": empty, "full": Term(x * 4, jnp.array(2.0), 5.0), "seen": Term(x, jnp.ones(()), 0.0)}
        )

    assert float(loss(jnp.array(1.5))) == 15.0
    assert float(jax.grad(loss)(jnp.array(1.5))) == 10.0
    assert float(weighted_sum({})) == 0.0
    assert float((Term(jnp.zeros(()), jnp.zeros(())) + Term(jnp.zeros(()), jnp.zeros(()))).value) == 0.0


def test_a_count_below_one_still_divides():
    assert float(Term(jnp.array(0.5), jnp.array(0.25)).value) == 2.0


def test_binary_terms_agree_with_numpy():
    generator = np.random.default_rng(4)
    logits = (generator.normal(size=(3, 8)) * 4).astype(np.float32)
    logits[0, :4] = [80.0, -80.0, 80.0, -80.0]
    labels, counted = generator.uniform(size=(2, 3, 8)) < 0.5
    labels[0, :4], counted[0, :4] = [True, True, False, False], True
    terms = binary_terms("rtd", *map(jnp.asarray, (logits, labels, counted)), 7.0)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    other = 1 / (1 + np.exp(logits.astype(np.float64)))
    cost = -np.where(labels, np.log(p), np.log(other))
    assert set(terms) == {"rtd", "rtd/accuracy"}
    assert (float(terms["rtd"].weight), float(terms["rtd/accuracy"].weight)) == (7.0, 0.0)
    np.testing.assert_allclose(terms["rtd"].value, cost[counted].mean(), rtol=1e-6)
    np.testing.assert_allclose(terms["rtd/accuracy"].value, ((p > 0.5) == labels)[counted].mean(), rtol=1e-6)
    assert float(terms["rtd"].count) == counted.sum()


# ---- scoring ----------------------------------------------------------------------------------------------------


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


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 5), st.lists(st.integers(-2, 2), min_size=6, max_size=6))
def test_ties_are_resolved_as_by_argmax(vocab: int, target: int, numbers: list[int]):
    logits = jnp.asarray([numbers[:vocab]], jnp.float32)
    right = is_first_largest(logits, jnp.asarray([target % vocab]))
    assert bool(right[0]) == (int(np.argmax(numbers[:vocab])) == target % vocab)


@pytest.mark.parametrize("on", ["cpu", "tpu"])
def test_log_z_and_target_logit_have_separate_gradients(on, monkeypatch):
    monkeypatch.setattr("mixlm.losses.softmax.platform", lambda: on)
    draw = np.random.default_rng(0)
    logits, targets = jnp.asarray(draw.normal(size=(3, 4, 7)), jnp.float32), jnp.asarray(draw.integers(0, 7, (3, 4)))
    of_log_z, of_chosen = draw.normal(size=(2, 3, 4)).astype(np.float32)
    values, pull = jax.vjp(lambda x: normalizer_chosen_entropy(x, targets), logits)
    (found,) = pull((jnp.asarray(of_log_z), jnp.asarray(of_chosen), jnp.ones((3, 4))))
    wanted = of_log_z[..., None] * softmax(logits) + of_chosen[..., None] * np.eye(7)[targets]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    p = softmax(np.asarray(logits, np.float64))
    np.testing.assert_allclose(values[2], -np.sum(p * np.log(p), axis=-1), rtol=1e-5)


@pytest.mark.parametrize("at", [0.0, 1e4])
def test_entropy_is_invariant_to_shifted_logits(at):
    logits = np.asarray([[0.0, 0.0, -90.0, 0.0], [0.0, -30.0, -60.0, -1e10]], np.float32) + np.float32(at)
    _, _, entropy = normalizer_chosen_entropy(jnp.asarray(logits), jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(entropy, [np.log(3), 30 * np.exp(-30.0)], atol=1e-6)


@pytest.mark.parametrize("loss", [CrossEntropy(), MiLe(1.0), MiLe(0.5), Focal(2.0)])
def test_scales_are_normalised_over_weighted_positions(loss):
    # Sure wherever a token is seen and uniform where it is masked: the cost of a token is log V, by 1/p and any scale.
    vocab, masked = 7, np.array([1, 0, 0, 1, 0, 1, 0, 0], bool)
    targets = np.arange(8)[None, :] % vocab
    logits = jnp.asarray(np.where(masked[None, :, None], 0.0, 80.0 * np.eye(vocab)[targets]), jnp.float32)
    weights = jnp.asarray(masked[None, :] * 8 / 3, jnp.float32)
    found = score(lambda hidden: hidden, logits, jnp.asarray(targets), weights, loss, counted=jnp.ones((1, 8)))
    np.testing.assert_allclose(found.terms("x", loss)["x"].value, np.log(vocab), rtol=1e-5)
