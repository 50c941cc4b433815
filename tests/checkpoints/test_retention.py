"""Which checkpoints stay, against the definition written out; and which checkpoint an address means."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlm.checkpoints.retention import Policy, Retention
from mixlm.checkpoints.saving import Checkpoints
from mixlm.errors import UserError
from mixlm.paths import RunRef
from mixlm.recipe import Recipe
from mixlm.reports.best import Best

FIGURES = st.dictionaries(
    st.integers(0, 30).map(lambda number: number * 10),
    st.one_of(
        st.just({}),
        st.sampled_from([1.0, 2.0, 3.0, math.nan, math.inf]).map(lambda value: {"causal": value}),
        st.just({"prefix_lm": -1.0}),
    ),
    max_size=8,
)


@given(FIGURES, st.integers(1, 4), st.integers(1, 3), st.sampled_from([None, 20, 70]), st.booleans())
def test_a_checkpoint_stays_for_one_of_three_reasons_and_no_other(figures, newest, best, period, tracked):
    retention = Retention(newest, "causal" if tracked else None, best, period)
    kept = retention.kept(figures)
    for step, values in figures.items():
        later = sum(other > step for other in figures)
        value = values.get("causal", math.nan)
        better = [
            other
            for other, theirs in figures.items()
            if theirs.get("causal", math.inf) < value or (theirs.get("causal") == value and other < step)
        ]
        among_best = tracked and math.isfinite(value) and len(better) < best
        assert (step in kept) == (later < newest or among_best or (period is not None and step % period == 0))
    policy = Policy(retention, figures.__getitem__)
    records = [SimpleNamespace(step=step) for step in sorted(figures)]
    assert policy.should_preserve(records, context=None) == [record.step in kept for record in records]


@given(FIGURES, st.integers(1, 3))
def test_the_highest_is_best_of_what_rises(figures, best):
    falling = {step: {name: -value for name, value in values.items()} for step, values in figures.items()}
    rises = Retention(1, Best("causal", highest=True), best)
    assert rises.ranked(figures) == Retention(1, "causal", best).ranked(falling)


@pytest.mark.parametrize(
    ("metric", "best_is", "rises"),
    [
        ("causal", None, False),
        ("causal/accuracy", None, True),
        ("sst2/accuracy", None, True),
        ("sst2/matthews", None, True),
        ("sst2_long/loss", None, False),
        ("sst2/ter", "lowest", False),
        ("causal", "highest", True),
    ],
)
def test_a_task_s_metric_rises_and_a_loss_falls_unless_it_is_said(metric, best_is, rises):
    data = SimpleNamespace(pairs={"inputs": 8, "targets": 8}, task=SimpleNamespace(name="sst2"))
    recipe = SimpleNamespace(best_metric=metric, best_is=best_is, dataset=data)
    best = Recipe.best.fget(recipe)
    assert best == Best(metric, rises)
    assert best.better(2.0, 1.0) == rises and best.better(1.0, 2.0) != rises
    assert best.better(1.0, math.nan) and not best.better(math.nan, 1.0) and not best.better(1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "folder", "which"),
    [
        ("runs/a", "runs/a", None),
        ("runs/a@400", "runs/a", 400),
        ("runs/a@best", "runs/a", "best"),
        ("runs/a@chck_10M", "runs/a", "chck_10M"),
        ("runs/a@chck_M", "runs/a@chck_M", None),
        ("runs/a@b@7", "runs/a@b", 7),
        ("runs/a@b", "runs/a@b", None),
        ("@7", "@7", None),
        ("runs/a@-7", "runs/a@-7", None),
        ("runs/a@\u0663", "runs/a@\u0663", None),
        ("runs/a@" + "9" * 30, "runs/a@" + "9" * 30, None),
    ],
)
def test_an_address_is_a_folder_and_perhaps_a_step(text, folder, which):
    assert RunRef.parse(text) == RunRef(Path(folder), which)
    assert str(RunRef.parse(text)) == text


def test_a_folder_with_an_at_in_its_name_is_itself(tmp_path):
    (tmp_path / "run@3").mkdir()
    assert RunRef.parse(str(tmp_path / "run@3")) == RunRef(tmp_path / "run@3")


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """Checkpoints of the steps 10, 20 and 30, of which the second is best, and the last was not validated."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run"), keep=5)
    for step, figures in ((10, {"causal": 2.0, "mix/share": 0.5}), (20, {"causal": 1.5}), (30, None)):
        checkpoints.save(step, {"kernel": jnp.full(3, step)}, figures)
    checkpoints.close()
    return checkpoints.folder


def test_an_address_finds_its_step(some):
    checkpoints = Checkpoints(some)
    assert checkpoints.resolve(RunRef(some), None) is None
    assert checkpoints.resolve(RunRef(some, 20), None) == 20
    assert checkpoints.resolve(RunRef(some, "best"), "causal") == 20
    assert checkpoints.best("mix/share") == (10, 0.5)
    assert [checkpoints.figures(step) for step in (20, 30, 40)] == [{"causal": 1.5}, {}, {}]


@pytest.mark.parametrize(
    ("which", "metric", "sentence"),
    [
        (25, None, r"keeps no checkpoint of step 25, it keeps 10, 20 and 30\.$"),
        ("best", None, r"is best depends on BEST_METRIC"),
        ("best", "casual", r"holds a figure 'casual' of its validation \(BEST_METRIC\); it keeps 10, 20 and 30\.$"),
    ],
)
def test_a_step_that_is_not_kept_is_one_sentence(some, which, metric, sentence):
    with pytest.raises(UserError, match=sentence):
        Checkpoints(some).resolve(RunRef(some, which), metric)


@pytest.mark.parametrize("lost", [(), (20,), (20, 10)])
@pytest.mark.parametrize("damage", ["bytes", "length", "manifest"])
def test_the_best_is_whole(some, tmp_path, lost, damage):
    """The figures are 2.0 for step 10 and 1.5 for step 20; a flipped byte leaves all lengths as they were."""
    shutil.copytree(some, tmp_path / "checkpoints")
    for step in lost:
        place = tmp_path / "checkpoints" / str(step)
        path = max(place.glob("default/**/d/*"), key=lambda file: file.stat().st_size)
        content = path.read_bytes()
        if damage == "manifest":
            (place / "checksums.json").write_text("{}")
        else:
            path.write_bytes(bytes([content[0] ^ 0xFF]) + content[1:] if damage == "bytes" else content[1:])
    wanted = [each for each in ((20, 1.5), (10, 2.0)) if each[0] not in lost]
    found = Checkpoints(tmp_path / "checkpoints")
    assert found.best("causal") == (wanted[0] if wanted else None)
    if wanted:
        assert found.whole(found.resolve(RunRef(tmp_path, "best"), "causal")) == wanted[0][0]


@pytest.mark.parametrize("text", ['{"causal": "1.0"}', '{"causal": true}', '{"causal": ' + "9" * 400 + "}", "[]", "{"])
def test_figures_that_are_no_numbers_are_none(some, tmp_path, text):
    shutil.copytree(some / "20", tmp_path / "20")
    (tmp_path / "20" / "figures.json").write_text(text)
    assert Checkpoints(tmp_path).figures(20) == {} and Checkpoints(tmp_path).best("causal") is None


def test_a_folder_without_checkpoints_says_so(tmp_path):
    with pytest.raises(UserError, match=r"keeps no checkpoint of step 1, it keeps none\.$"):
        Checkpoints(tmp_path / "checkpoints").resolve(RunRef(tmp_path, 1), None)
