"""Intervals against scipy, Holm against its definition, the paired test's errors, and where curves reach a value."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.analysis.intervals import BOOTSTRAP_FROM, interval
from mixlm.analysis.paired import BETTER, UNCLEAR, UNDECIDED, WORSE, holm, paired
from mixlm.analysis.reaching import reach
from mixlm.analysis.scales import scale_of

FIGURES = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


@settings(max_examples=30)
@given(st.lists(FIGURES, min_size=2, max_size=BOOTSTRAP_FROM - 1), st.randoms())
def test_a_mean_of_few_has_scipys_t_interval_in_any_order(values, random):
    found = interval(values)
    error = scipy.stats.sem(values)
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * error
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=1e-9)
    shuffled = random.sample(values, len(values))
    assert interval(shuffled) == found and found.how == "t" and found.n == len(values)


def test_a_mean_of_many_has_scipys_bootstrap_interval():
    values = np.random.default_rng(1).exponential(size=40)
    found = interval(values[::-1].tolist())
    reference = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(2))
    assert found.how == "bootstrap" and interval(values.tolist()) == found
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval), abs=0.02)


def test_one_value_has_no_interval_and_no_test():
    assert not interval([1.5]).known and interval([1.5]).mean == 1.5 and np.isnan(interval([]).mean)
    assert holm([paired([0.5])])[0].verdict("min") == UNDECIDED


@settings(max_examples=30)
@given(st.lists(FIGURES, min_size=3, max_size=8, unique=True))
def test_the_paired_test_is_scipys(values):
    assert paired(values).p == pytest.approx(scipy.stats.ttest_1samp(values, 0.0).pvalue, rel=1e-6, abs=1e-12)


def test_equal_differences_are_certain_and_none_is_no_difference():
    assert paired([0.25, 0.25]).p == 0.0 and paired([0.0, 0.0, 0.0]).p == 1.0


def test_holm_is_what_its_paper_computes_by_hand():
    """p of 0.01, 0.04, 0.03 and 0.005 become 0.03, 0.06, 0.06 and 0.02 (Wright 1992, Biometrics 48:1008)."""
    tests = [paired([1.0, 2.0, 2.5])] * 4
    tests = [type(each)(each.interval, p) for each, p in zip(tests, (0.01, 0.04, 0.03, 0.005))]
    adjusted = holm(tests)
    assert [each.adjusted for each in adjusted] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [each.verdict("min") for each in adjusted] == [WORSE, UNCLEAR, UNCLEAR, WORSE]
    assert adjusted[0].verdict("max") == BETTER


@pytest.mark.parametrize("many", [250, 4000])
def test_the_paired_test_keeps_its_error_rate_alone_and_in_a_family(many):
    """Under the null 5% of tests, and 5% of families of ten, find something; binomial error of four deviations."""
    family, seeds = 10, 3
    noise = np.random.default_rng(0).standard_normal((many, family, seeds))
    alone, together = 0, 0
    for each in noise:
        tests = holm([paired(differences) for differences in each.tolist()])
        alone += sum(test.p < 0.05 for test in tests)
        together += any(test.verdict("min") in (BETTER, WORSE) for test in tests)
    for found, trials in ((alone, many * family), (together, many)):
        assert abs(found / trials - 0.05) < 4 * np.sqrt(0.05 * 0.95 / trials)


@given(st.floats(0.05, 0.5), st.floats(1.0, 20.0))
def test_a_power_law_is_reached_exactly_where_it_is(exponent, target):
    x = np.geomspace(1e9, 1e14, 12)
    y = 20.0 * (x / 1e9) ** -exponent
    exact = 1e9 * (20.0 / target) ** (1 / exponent)
    found = reach(x, y, target)
    assert found is None if exact > x[-1] * (1 + 1e-9) else found == pytest.approx(exact, rel=1e-6)


def test_a_figure_to_be_raised_is_reached_from_below_and_a_first_point_counts():
    x, y = np.array([0.0, 2.0]), np.array([0.0, 30.0])
    assert reach(x, y, 15.0, "max") == 1.0 and reach(x, y, 0.0, "max") == 0.0 and reach(x, y, 31.0, "max") is None


@given(st.sampled_from([(0.0, 0.125, 0.5, 1.0), (1, 4, 16, 64), (10, 20, 30), (0.25, 0.5, 0.75)]))
def test_a_scale_rises_and_is_undone(values):
    scale = scale_of(values)
    there = scale.forward(values)
    assert (np.diff(there) > 0).all() and np.isfinite(there).all()
    np.testing.assert_allclose(scale.backward(there), values, atol=1e-12)


def test_scales_are_those_of_the_values():
    kinds = {(1, 4, 16): "log2", (0, 0.5, 1): "logit2", (100, 200): "linear", ("a", "b"): "names"}
    assert {values: scale_of(values).kind for values in kinds} == kinds
