"""How rows are shared out: exact for any real rates, and one row's source is found without the rows before it."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.data.loader.rates import Rates, Shares, shares_of
from mixlm.errors import UserError

weights = st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any).map(tuple)
reals = st.lists(st.floats(0, 3, allow_subnormal=False), min_size=1, max_size=9).filter(lambda rates: sum(rates) > 0)


@settings(deadline=None)
@given(weights=weights)
def test_a_rows_source_and_place_are_those_of_counting_row_after_row(weights):
    shares, seen = Shares(weights), [0] * len(weights)
    for row in range(150):
        assert shares.counts(row) == seen
        source, place = shares.at(row)
        assert place == seen[source] and weights[source] > 0
        seen[source] += 1


@settings(deadline=None)
@given(rates=reals, rows=st.integers(0, 10**18))
def test_counts_are_exact_to_a_few_rows_however_many_there_were(rates, rows):
    shares, exact = shares_of(rates), [Fraction(str(rate)) for rate in rates]
    counts = shares.counts(rows)
    assert sum(counts) == rows
    for count, rate in zip(counts, exact):
        assert abs(count - rows * rate / sum(exact)) <= Fraction(math.ceil(math.log2(len(rates))), 2)


@given(weights=weights, times=st.integers(0, 10**6))
def test_whole_shares_are_met_exactly(weights, times):
    assert Shares(weights).counts(times * sum(weights)) == [times * weight for weight in weights]


def test_decimals_are_the_numbers_that_were_written():
    assert shares_of((0.7, 0.3)).weights == (7, 3)
    assert shares_of((2, 1)).weights == (2, 1)
    assert shares_of((1e-3, 0.5)).weights == (1, 500)


@settings(deadline=None)
@given(
    stages=st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any))),
    batch=st.integers(1, 7),
)
def test_rates_that_change_go_on_from_what_was_read(stages, batch):
    stages = [*stages, (5, [1, 2, 3])]
    starts = [sum(length for length, _ in stages[:index]) for index in range(len(stages))]
    rates = Rates(tuple(Shares(tuple(weights)) for _, weights in stages), tuple(starts))
    seen = [0, 0, 0]
    for step in range(starts[-1] + 5):
        assert rates.counts(step, batch) == seen
        stage = max(index for index, start in enumerate(starts) if start <= step)
        assert rates.stage(step) == stage
        first = (step - starts[stage]) * batch
        for row in range(first, first + batch):
            seen[rates.shares[stage].at(row)[0]] += 1


@pytest.mark.parametrize("rates", [(0, 0), (-0.1, 1), (float("nan"), 1), (float("inf"), 1), (True, 1), ()])
def test_rates_that_name_no_shares_are_refused(rates):
    with pytest.raises(UserError, match=r"RATES = .* must be numbers of at least 0"):
        shares_of(rates)
