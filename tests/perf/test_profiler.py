"""A profile of some steps lies where TensorBoard and Perfetto look for it, and changes no metric."""

import gzip
import json
import re

import jax
import pytest
from support.small_run import recipe

from mixlm.errors import UserError
from mixlm.gin_config.flags import parse_flags
from mixlm.perf.profiler import Profile
from mixlm.reports.metrics import read
from mixlm.training import run as loop

DEVICES = jax.devices()


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])


def lines(folder) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in read(folder)]


def test_the_given_steps_are_traced_and_metrics_stay_the_same(corpus, tmp_path):
    plain, traced = (recipe(str(corpus), str(tmp_path / name), train_steps=6, bag=True) for name in ("plain", "traced"))
    loop.train(plain, say=lambda _: None)
    loop.train(traced, say=lambda _: None, profile=Profile(3, 4))
    assert lines(traced.folder) == lines(plain.folder)
    assert not (plain.folder / "profile").exists()
    # What TensorBoard's plugin reads, and what Perfetto opens.
    (folder,) = (traced.folder / "profile" / "plugins" / "profile").iterdir()
    (space,) = folder.glob("*.xplane.pb")
    assert space.stat().st_size > 1000
    with gzip.open(folder / "perfetto_trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    steps = [event["args"]["step_num"] for event in events if event.get("name") == "train" and event.get("ph") == "X"]
    assert sorted(map(int, steps)) == [3, 4]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("12", "--profile=12 must be the first and the last step to trace, such as --profile=11:13."),
        ("a:b", "--profile=a:b must be the first and the last step to trace, such as --profile=11:13."),
        ("-1:3", "--profile=-1:3 must be the first and the last step to trace, such as --profile=11:13."),
        ("0:3", "--profile=0:3 is no range of steps: they count from 1, and the last does not come before the first."),
        ("5:4", "--profile=5:4 is no range of steps: they count from 1, and the last does not come before the first."),
    ],
)
def test_a_bad_range_of_steps_is_refused_in_one_sentence(text, said):
    with pytest.raises(UserError, match=re.escape(said)):
        parse_flags([f"--profile={text}"], "", several=True)


def test_the_flag_is_the_training_scripts():
    assert parse_flags(["--profile", "11:13"], "", several=True).profile == Profile(11, 13)
    with pytest.raises(UserError, match="--profile is a flag of `mixlm train` alone"):
        parse_flags(["--profile=11:13"], "")
    with pytest.raises(UserError, match="--explain takes no step that --profile could trace"):
        parse_flags(["--profile=11:13", "--explain"], "", several=True)


def test_steps_outside_of_the_run_are_refused_in_one_sentence(corpus, tmp_path):
    made = recipe(str(corpus), str(tmp_path / "run"), train_steps=3, eval_period=3, bag=True)
    with pytest.raises(UserError, match=r"--profile=3:4 goes past the last of 3 steps \(TRAIN_STEPS\)\."):
        loop.train(made, say=lambda _: None, profile=Profile(3, 4))
    assert not made.folder.exists()
    loop.train(made, say=lambda _: None)
    before = sorted(made.folder.rglob("*"))
    with pytest.raises(UserError, match="--profile=3:3 begins at a step that is done: the run stands after step 3"):
        loop.train(made, say=lambda _: None, profile=Profile(3, 3))
    assert sorted(made.folder.rglob("*")) == before
