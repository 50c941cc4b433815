"""Laws of trackers: each gets every figure once, whatever resumes; one that fails ends nothing, and is said once."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from mixlm.errors import UserError
from mixlm.reports.metrics import Recorder, read
from mixlm.reports.trackers import chosen
from mixlm.reports.trackers.base import About
from mixlm.reports.trackers.chosen import check_installed, check_names


class Kept:
    """A tracker in memory, which fails when it is told to."""

    library, extra = "json", None
    fails_at: object = None
    lines: list

    def __init__(self, about):
        type(self).lines = []
        self.about = about
        self._fail("opening")

    def write(self, step, numbers):
        self._fail(step)
        self.lines.append((step, dict(numbers)))

    def close(self):
        self._fail("closing")

    def _fail(self, when):
        if when == self.fails_at:
            raise ConnectionError("no\nserver")


@pytest.fixture
def two(monkeypatch):
    """Two trackers in memory, `first` and `second`."""
    kinds = {name: type(name, (Kept,), {"lines": []}) for name in ("first", "second")}
    monkeypatch.setattr(chosen, "TRACKERS", kinds)
    return kinds


@pytest.mark.parametrize("fails_at", ["opening", 20, "closing"])
def test_a_tracker_that_fails_is_said_once_and_takes_nothing_from_the_others(two, tmp_path, fails_at):
    two["first"].fails_at, said = fails_at, []
    with Recorder(tmp_path, 0, ("jsonl", "first", "second"), say=said.append) as recorder:
        for step in (10, 20, 30):
            recorder.write(step, "s", {"loss": 1 / step, "set": "abc"})
    assert [line["step"] for line in read(tmp_path)] == [10, 20, 30]
    assert two["second"].lines == [(step, {"loss": 1 / step}) for step in (10, 20, 30)]
    (sentence,) = said
    assert sentence.startswith("The tracker first failed at step ") and "(ConnectionError: no server)" in sentence
    assert [step for step, _ in two["first"].lines] == {"opening": [], 20: [10], "closing": [10, 20, 30]}[fails_at]


def test_without_trackers_there_is_the_record_alone(tmp_path):
    with Recorder(tmp_path, 0, ("jsonl",)) as recorder:
        recorder.write(1, "s", {"loss": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("jsonl", "tensorbord"), "names 'tensorbord', and trackers are .* Did you mean 'tensorboard'?"),
        (("wandb",), "leaves out 'jsonl'"),
        (("jsonl", "wandb", "wandb"), "names a tracker twice"),
    ],
)
def test_a_wrong_name_is_one_sentence(names, sentence):
    with pytest.raises(UserError, match=sentence):
        check_names(names)


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(chosen.importlib.util, "find_spec", lambda name: None if name == "wandb" else object())
    check_installed(("jsonl", "tensorboard", "mlflow"))
    with pytest.raises(UserError, match=r"wandb is not installed: pip install 'mixlm\[wandb\]'\."):
        check_installed(("jsonl", "wandb"))


def test_an_id_is_remembered_beside_the_others(tmp_path):
    About(tmp_path).remember("wandb", "a1")
    About(tmp_path, begun=20).remember("mlflow", "b2")
    assert (About(tmp_path).known("wandb"), About(tmp_path).known("mlflow")) == ("a1", "b2")
    assert About(tmp_path).known("trackio") is None


def needs(library: str) -> pytest.MarkDecorator:
    """Skips where the library is not at hand; it is imported in other processes alone, whose warnings are theirs."""
    return pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"{library} is not installed")


# A run of 30 steps that is killed there and goes on from its checkpoint of step 20, each start in a process.
START = """
import sys
from mixlm.reports.metrics import Recorder
folder, name, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Recorder(folder, first, ("jsonl", name), {"seed": "0"}, say=lambda text: sys.exit(text)) as recorder:
    for step in range(first + 10, 31 if first == 0 else 51, 10):
        recorder.write(step, "s", {"loss": 1 / step, "validation/causal/top_80%": float(step)})
"""


def tracked(folder, name: str, **settings: str) -> dict[str, str]:
    """A run in a folder, with its second start; returns the environment of both."""
    environment = os.environ | settings
    for first in (0, 20):
        command = [sys.executable, "-c", START, str(folder), name, str(first)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    assert [line["step"] for line in read(folder)] == [10, 20, 30, 40, 50]
    return environment


def asked(script: str, environment: dict[str, str]) -> object:
    """What a script prints as JSON on its last line."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=240)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@needs("mlflow")
def test_mlflow_has_each_step_once_after_a_resume(tmp_path):
    store = (tmp_path / "store").as_uri()
    environment = tracked(
        tmp_path / "run",
        "mlflow",
        MLFLOW_TRACKING_URI=store,
        MLFLOW_ALLOW_FILE_STORE="true",
        GIT_PYTHON_REFRESH="quiet",
    )
    script = """
import json
from mlflow import MlflowClient
client = MlflowClient()
(run,) = client.search_runs([client.get_experiment_by_name("mixlm").experiment_id])
history = {name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
           for name in run.data.metrics}
print(json.dumps([history, run.data.params, run.info.status, run.info.run_name]))
"""
    history, settings, status, name = asked(script, environment)
    steps = range(10, 51, 10)
    assert history == {
        "loss": [[step, 1 / step] for step in steps],
        "validation/causal/top_80_": [[step, float(step)] for step in steps],
    }
    assert (settings, status, name) == ({"seed": "0"}, "FINISHED", "run")


@pytest.mark.slow
@needs("wandb")
def test_wandb_offline_keeps_the_figures_of_each_start_under_one_id(tmp_path):
    tracked(tmp_path / "run", "wandb", WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DISABLE_STATS="true")
    starts = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    (number,) = {path.name.rpartition("-")[2] for path in starts}
    assert len(starts) == 2 and json.loads((tmp_path / "run" / "trackers.json").read_text()) == {"wandb": number}
    for path in starts:
        assert b"validation/causal/top_80%" in next(path.glob("*.wandb")).read_bytes()


@pytest.mark.slow
@needs("trackio")
def test_trackio_has_each_step_once_after_a_resume(tmp_path):
    environment = tracked(tmp_path / "run", "trackio", TRACKIO_DIR=str(tmp_path / "trackio"), HF_HUB_OFFLINE="1")
    script = """
import json
from trackio.sqlite_storage import SQLiteStorage
(name,) = SQLiteStorage.get_runs("mixlm")
print(json.dumps([(each["step"], each["loss"]) for each in SQLiteStorage.get_logs("mixlm", name)]))
"""
    assert asked(script, environment) == [[step, 1 / step] for step in range(10, 51, 10)]
