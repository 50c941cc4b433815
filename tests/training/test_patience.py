"""Early stopping: a run ends where PATIENCE validations in a row were no better, and is finished then."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import recipe

from mixlm.errors import UserError
from mixlm.reports.best import Best
from mixlm.reports.metrics import read
from mixlm.schedules import Constant
from mixlm.training.run import train
from mixlm.training.together.grouping import refusal


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, math.nan]), max_size=8), st.integers(1, 4), st.sampled_from([False, True])
)
def test_a_run_is_stalled_where_a_counter_says_so(values, patience, highest):
    best, waited = math.inf, -1
    for value in values:
        cost = math.inf if math.isnan(value) else -value if highest else value
        waited = 0 if cost < best or waited < 0 else waited + 1
        best = min(best, cost)
    assert Best("loss", highest).stalled(values, patience) == (waited >= patience)


def test_patience_needs_a_figure_and_a_run_of_its_own(corpus, tmp_path):
    with pytest.raises(UserError, match="PATIENCE counts validations without a better BEST_METRIC"):
        recipe(corpus, tmp_path, patience=2)
    with pytest.raises(UserError, match="PATIENCE must be a whole number above 0"):
        recipe(corpus, tmp_path, patience=0, best_metric="span_corruption")
    assert "PATIENCE ends a run by itself" in (
        refusal(recipe(corpus, tmp_path, patience=2, best_metric="span_corruption")) or ""
    )


@pytest.mark.slow
def test_a_run_that_learns_nothing_ends_and_goes_on_with_more_patience(corpus, tmp_path):
    said: list[str] = []
    settings = {"eval_period": 1, "checkpoint_period": 4, "best_metric": "span_corruption", "patience": 2}
    made = recipe(corpus, tmp_path / "run", **settings)
    still = replace(made, optimizer=replace(made.optimizer, learning_rate=Constant(0.0)))
    train(still, said.append)
    assert read(still.folder)[-1]["step"] == 3 and (still.folder / "checkpoints/3").is_dir()
    assert "Stopped early (PATIENCE = 2): span_corruption did not improve." in said
    said.clear()
    train(still, said.append)  # the same command once more
    assert said[-1].endswith(f"has finished its 3 steps; its curves are in {still.folder / 'curves.png'}.")
    train(replace(still, patience=4), said.append)
    assert [line["step"] for line in read(still.folder)] == [1, 2, 3, 4, 5]
