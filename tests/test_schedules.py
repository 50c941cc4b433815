import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.schedules import WSD, Constant, Cosine, Linear, Piecewise, RsqrtDecay, Schedule

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
        Piecewise((0, 10, 50), (1.0, 2.0, 3.0)),
        RsqrtDecay(2.0, 10),
        Cosine(1.0, 100, 10),
        WSD(1.0, 100, 10),
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


@given(st.floats(-3, 3, width=32), st.floats(-3, 3, width=32), st.integers(1, 200))
def test_linear_is_numpys_interpolation(start, end, steps):
    expected = np.interp(STEPS, [0, steps], [start, end])
    np.testing.assert_allclose(values(Linear(start, end, steps)), expected, atol=2e-6)


def test_linear_meets_its_ends_exactly():
    line = Linear(0.1, 0.7, 3)
    assert line(0) == np.float32(0.1) and line(3) == np.float32(0.7) and line(4) == np.float32(0.7)


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
def test_cosine_is_optaxs(warmup, final):
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.5, warmup, 100, end_value=0.5 * final)
    # optax begins at `init_value` even when there is no warm-up to climb.
    steps = STEPS if warmup else STEPS[1:]
    expected = [float(theirs(step)) for step in steps]
    np.testing.assert_allclose(values(Cosine(0.5, 100, warmup, final), steps), expected, atol=1e-6)


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert Cosine(0.5, 100)(0) == 0.5
    assert WSD(0.5, 100)(0) == 0.5


@given(st.integers(1, 60), st.sampled_from([0.0, 0.1, 0.25, 0.4]), st.floats(0, 1, width=16))
def test_wsd_is_a_trapezoid(warmup, fraction, final):
    corners = [0, warmup, 100 - 100 * fraction, 100]
    expected = np.interp(STEPS, corners, [0.0, 0.5, 0.5, 0.5 * final if fraction else 0.5])
    np.testing.assert_allclose(values(WSD(0.5, 100, warmup, fraction, final)), expected, atol=1e-6)


def test_wsd_is_optaxs_joined_lines():
    theirs = optax.join_schedules(
        [optax.linear_schedule(0.0, 1.0, 10), optax.linear_schedule(1.0, 0.1, 25)], boundaries=[75]
    )
    expected = [float(theirs(step)) for step in STEPS]
    np.testing.assert_allclose(values(WSD(1.0, 100, 10, 0.25, 0.1)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Constant(float("nan")), "Constant.value = nan must be a finite number."),
        (lambda: Linear(0.0, 1.0, 0), "Linear.steps = 0 must be at least 1."),
        (lambda: Piecewise((0, 5), (1.0,)), "2 boundaries and 1 values"),
        (lambda: Piecewise((0, 5, 5), (1.0, 2.0, 3.0)), "must rise"),
        (lambda: Piecewise((3,), (1.0,)), "must begin with step 0"),
        (lambda: Piecewise((), ()), "must begin with step 0"),
        (lambda: RsqrtDecay(1.0, -1), "RsqrtDecay.warmup_steps = -1 must be at least 1."),
        (lambda: RsqrtDecay(-1.0), "RsqrtDecay.base = -1.0 must be at least 0."),
        (lambda: Cosine(1.0, 10, 11), "longer than the whole run"),
        (lambda: Cosine(1.0, -10), "Cosine.total_steps = -10 must be at least 1."),
        (lambda: WSD(1.0, 10, 11), "longer than the whole run"),
        (lambda: WSD(1.0, 100, 90), "runs into the decay"),
        (lambda: WSD(1.0, 10, decay_fraction=1.5), "WSD.decay_fraction = 1.5 must be between 0 and 1."),
        (lambda: WSD(1.0, 10, final_fraction=-0.5), "WSD.final_fraction = -0.5 must be between 0 and 1."),
    ],
)
def test_a_bad_value_gets_one_sentence(build, words):
    with pytest.raises(UserError, match=r"^[^\n]*[.]$") as error:
        build()
    assert words in str(error.value)
