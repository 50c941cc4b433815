import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.schedules import WSD, Constant, Cosine, CosineWithCooldown, Linear, Piecewise, RsqrtDecay, Schedule

STEPS = (0, 1, 2, 9, 10, 11, 49, 50, 74, 75, 76, 99, 100, 101, 5000)
settings.register_profile("schedules", max_examples=25, deadline=None)
settings.load_profile("schedules")


def values(schedule: Schedule, steps=STEPS) -> np.ndarray:
    return np.array([float(schedule(step)) for step in steps])


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(0.3),
        Linear(0.0, 1.0, 70),
        Linear(0.0, 1.0, 30, 10),
        Piecewise((0, 10, 50), (1.0, 2.0, 3.0)),
        RsqrtDecay(2.0, 10),
        Cosine(1.0, 100, 10),
        Cosine(1.0, 100, warmup_fraction=0.016, final_fraction=0.1, cooldown_fraction=0.016),
        CosineWithCooldown(1.0, 100, warmup_fraction=0.05, final_fraction=0.1, cooldown_fraction=0.1),
        WSD(1.0, 100, 10),
        WSD(1.0, 100, warmup_fraction=0.1),
    ],
)
def test_the_traced_value_is_the_plain_value_in_float32(schedule):
    assert isinstance(schedule, Schedule)
    assert hash(schedule) == hash(type(schedule)(**vars(schedule)))
    traced = jax.jit(schedule)
    for step in STEPS:
        value = traced(jnp.int32(step))
        assert value.dtype == jnp.float32 and value.shape == ()
        assert schedule(step).dtype == jnp.float32
        np.testing.assert_allclose(value, schedule(step), rtol=1e-6, atol=1e-7)


def test_a_schedule_is_static_under_jit():
    traces = []

    def value(schedule, step):
        traces.append(schedule)
        return schedule(step)

    compiled = jax.jit(value, static_argnums=0)
    compiled(WSD(1.0, 100), jnp.int32(3))
    compiled(WSD(1.0, 100), jnp.int32(4))
    assert len(traces) == 1


@given(st.floats(-3, 3, width=32), st.floats(-3, 3, width=32), st.integers(1, 200), st.integers(0, 120))
def test_linear_agrees_with_numpys_interpolation(start, end, steps, begin):
    expected = np.interp(STEPS, [begin, begin + steps], [start, end])
    np.testing.assert_allclose(values(Linear(start, end, steps, begin)), expected, atol=2e-6)


def test_linear_meets_its_ends_exactly():
    assert [float(Linear(0.1, 0.7, 0, begin=4)(step)) for step in (3, 4)] == [np.float32(0.1), np.float32(0.7)]
    line = Linear(0.1, 0.7, 3)
    assert line(0) == np.float32(0.1) and line(3) == np.float32(0.7) and line(4) == np.float32(0.7)
    later = Linear(0.1, 0.7, 3, begin=5)
    assert later(5) == np.float32(0.1) and later(8) == np.float32(0.7)


@given(st.lists(st.integers(1, 120), max_size=5, unique=True))
def test_piecewise_lets_the_last_boundary_win(later):
    boundaries = (0, *sorted(later))
    pieces = tuple(float(10 * i + 1) for i in range(len(boundaries)))
    expected = [[value for start, value in zip(boundaries, pieces, strict=True) if start <= step][-1] for step in STEPS]
    np.testing.assert_array_equal(values(Piecewise(boundaries, pieces)), expected)


def test_rsqrt_is_t5s_formula():
    expected = [2.0 / np.sqrt(max(step, 50)) for step in STEPS]
    np.testing.assert_allclose(values(RsqrtDecay(2.0, 50)), expected, rtol=1e-6)
    assert RsqrtDecay()(0) == np.float32(0.01)


@given(st.integers(0, 60), st.floats(0, 1, width=16))
def test_cosine_agrees_with_optax(warmup, final):
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.5, warmup, 100, end_value=0.5 * final)
    # optax begins at `init_value` even when there is no warm-up to climb.
    steps = STEPS if warmup else STEPS[1:]
    expected = [float(theirs(step)) for step in steps]
    np.testing.assert_allclose(values(Cosine(0.5, 100, warmup, final), steps), expected, atol=1e-6)


@pytest.mark.parametrize("cooldown", [0.016, 0.0], ids=["gpt_bert", "ltg_bert"])
@pytest.mark.parametrize("total", [1, 70, 125, 400, 7812])
def test_a_cosine_with_cooldown_is_the_release_s_at_every_step(total, cooldown):
    """The formula of ltgoslo/gpt-bert, pretraining/utils.py; ltg-bert's is the same without the cooldown."""
    warm, cool = int(total * 0.016), int(total * cooldown)

    def release(step):
        if step < warm:
            return step / max(1, warm)
        if cool and step >= total - cool:
            return 0.1 * (total - step) / max(1, cool)
        return 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, total - warm)))

    ours = CosineWithCooldown(
        2.0, total, final_fraction=0.1, warmup_fraction=0.016, cooldown_fraction=cooldown, warmup_steps=0
    )
    found = jax.vmap(ours)(jnp.arange(total + 1))
    np.testing.assert_allclose(found, [2.0 * release(step) for step in range(total + 1)], atol=1e-6)


def test_a_cosine_that_ends_at_its_cooldown_meets_the_line_to_zero():
    ours = Cosine(1.0, 1000, final_fraction=0.1, warmup_fraction=0.016, cooldown_fraction=0.016)

    def release(step):
        if step < 16:
            return step / 16
        if step >= 984:
            return 0.1 * (1000 - step) / 16
        return 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (step - 16) / 984))

    # The release's cosine aims at the run's end and is cut 0.0006 above the line's beginning; ours meets it.
    steps = (0, 8, 16, 17, 100, 500, 900, 983, 984, 985, 992, 999, 1000)
    np.testing.assert_allclose(values(ours, steps), [release(step) for step in steps], atol=0.013)
    ends = (0, 8, 16, 984, 985, 992, 999, 1000)
    np.testing.assert_allclose(values(ours, ends), [release(step) for step in ends], atol=1e-6)
    np.testing.assert_allclose(ours(500), 0.1 + 0.9 * 0.5, atol=1e-6)
    assert ours(2000) == 0.0


@given(st.sampled_from([Cosine, CosineWithCooldown, WSD]), st.integers(0, 50))
def test_a_warm_up_is_a_number_of_steps_or_a_fraction_of_the_run(kind, warmup):
    by_steps, by_fraction = kind(0.5, 100, warmup), kind(0.5, 100, warmup_fraction=warmup / 100)
    np.testing.assert_allclose(values(by_fraction), values(by_steps), atol=1e-6)


@pytest.mark.parametrize("kind", [Cosine, CosineWithCooldown, WSD])
def test_over_fills_in_the_length_of_the_run(kind):
    unknown = kind(0.5, warmup_fraction=0.1, final_fraction=0.2)
    assert unknown.over(100) == kind(0.5, 100, warmup_fraction=0.1, final_fraction=0.2)
    assert unknown.over(100).over(7).total_steps == 100
    with pytest.raises(UserError, match=rf"^The schedule {kind.__name__} does not know the run's length; [^\n]*[.]$"):
        unknown(0)
    with pytest.raises(UserError, match="is longer than the whole run"):
        kind(0.5, warmup_steps=11).over(10)


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert Cosine(0.5, 100)(0) == 0.5
    assert WSD(0.5, 100)(0) == 0.5


@given(st.integers(1, 60), st.sampled_from([0.0, 0.1, 0.25, 0.4]), st.floats(0, 1, width=16))
def test_wsd_is_a_trapezoid(warmup, fraction, final):
    corners = [0, warmup, 100 - 100 * fraction, 100]
    expected = np.interp(STEPS, corners, [0.0, 0.5, 0.5, 0.5 * final if fraction else 0.5])
    np.testing.assert_allclose(values(WSD(0.5, 100, warmup, fraction, final)), expected, atol=1e-6)


def test_wsd_agrees_with_optaxs_joined_lines():
    theirs = optax.join_schedules(
        [optax.linear_schedule(0.0, 1.0, 10), optax.linear_schedule(1.0, 0.1, 25)], boundaries=[75]
    )
    expected = [float(theirs(step)) for step in STEPS]
    np.testing.assert_allclose(values(WSD(1.0, 100, 10, 0.25, 0.1)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Constant(float("nan")), "Constant.value = nan must be a finite number."),
        (lambda: Linear(0.0, 1.0, -1), "Linear.steps = -1 must be at least 0."),
        (lambda: Piecewise((0, 5), (1.0,)), "2 boundaries and 1 values"),
        (lambda: Piecewise((0, 5, 5), (1.0, 2.0, 3.0)), "must rise"),
        (lambda: Piecewise((3,), (1.0,)), "must begin with step 0"),
        (lambda: Piecewise((), ()), "must begin with step 0"),
        (lambda: RsqrtDecay(1.0, -1), "RsqrtDecay.warmup_steps = -1 must be at least 1."),
        (lambda: RsqrtDecay(-1.0), "RsqrtDecay.base = -1.0 must be at least 0."),
        (lambda: Cosine(1.0, 10, 11), "longer than the whole run"),
        (lambda: Cosine(1.0, -10), "Cosine.total_steps = -10 must be at least 1."),
        (lambda: WSD(1.0, 10, 11), "longer than the whole run"),
        (lambda: Linear(0.0, 1.0, 5, -1), "Linear.begin = -1 must be at least 0."),
        (lambda: Cosine(1.0, 10, 2, warmup_fraction=0.2), "Cosine has both warmup_steps and warmup_fraction"),
        (lambda: Cosine(1.0, 100, 90, cooldown_fraction=0.5), "runs into the decay"),
        (lambda: Cosine(1.0, cooldown_fraction=2.0), "Cosine.cooldown_fraction = 2.0 must be between 0 and 1."),
        (lambda: WSD(1.0, 100, 90), "runs into the decay"),
        (lambda: WSD(1.0, 10, decay_fraction=1.5), "WSD.decay_fraction = 1.5 must be between 0 and 1."),
        (lambda: WSD(1.0, 10, final_fraction=-0.5), "WSD.final_fraction = -0.5 must be between 0 and 1."),
    ],
)
def test_a_bad_value_gets_one_sentence(build, words):
    with pytest.raises(UserError, match=r"^[^\n]*[.]$") as error:
        build()
    assert words in str(error.value)
