import io
import json
import os
import re
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.reports.metrics import Progress, Recorder, describe, describe_validation, duration, read


def strict(line: str) -> dict:
    """One line, read as JSON's standard has it: NaN and Infinity are no words of it."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(line, parse_constant=refuse)


def record(folder, first_step: int, last_step: int, every: int = 10) -> None:
    with Recorder(folder, first_step) as recorder:
        for step in range(first_step + every, last_step + 1, every):
            recorder.write(step, "spactor", {"loss": 1.0 / step, "flops": 1e9 * step})


def steps(folder) -> list[int]:
    return [strict(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder) -> list[tuple[int, str]]:
    """(step, tag) of every scalar in the event files, read by the TFRecord format's definition."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((folder / "tensorboard").glob("events*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            found += [(event.step, value.tag) for value in event.summary.value]
            place += 12 + length + 4
    return found


def test_a_line_holds_what_was_measured(tmp_path):
    with Recorder(tmp_path, 0) as recorder:
        values = {"loss": jnp.float32(2.5), "train/rtd": np.float64(0.25), "flops": 3e15, "epoch": 2, "done": True}
        recorder.write(10, "spactor", values)
        # On the disk before the recorder is closed.
        line = (tmp_path / "metrics.jsonl").read_text()
    assert line.endswith("\n")
    assert strict(line) == {
        **{"step": 10, "stage": "spactor", "loss": 2.5, "train/rtd": 0.25},
        **{"flops": 3e15, "epoch": 2, "done": True},
    }
    assert {(10, "loss"), (10, "train/rtd"), (10, "flops")} <= set(events(tmp_path))


def test_what_is_not_finite_stays_json_and_comes_back(tmp_path):
    with Recorder(tmp_path, 0) as recorder:
        recorder.write(1, "s", {"a": float("nan"), "b": jnp.float32(jnp.inf), "c": -np.inf, "d": 1.0})
    line = strict((tmp_path / "metrics.jsonl").read_text())
    assert (line["a"], line["b"], line["c"]) == ("nan", "inf", "-inf")
    (back,) = read(tmp_path)
    assert np.isnan(back["a"]) and back["b"] == np.inf and back["c"] == -np.inf and back["d"] == 1.0


def test_no_record_reads_as_none(tmp_path):
    assert read(tmp_path) == []


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 60))
@settings(max_examples=15, deadline=None)
def test_a_resumed_record_neither_misses_nor_repeats_a_step(tmp_path_factory, saved, ahead, torn):
    folder = tmp_path_factory.mktemp("run")
    record(folder, 0, 10 * (saved + ahead))
    path = folder / "metrics.jsonl"
    half = b'{"step": 999, "stage": "spactor", "loss": 0.123456789, "flops": 1e9}'[:torn]
    path.write_bytes(path.read_bytes() + half)
    record(folder, 10 * saved, 120)
    assert steps(folder) == list(range(10, 121, 10))
    assert [line["step"] for line in read(folder)] == list(range(10, 121, 10))
    aside = folder / "metrics.damaged"
    assert (aside.read_bytes() if half else b"") == (half + b"\n" if half else b"")
    names = {entry.name for entry in folder.iterdir() if entry.name.startswith((".", "metrics"))}
    assert names == {"metrics.jsonl", *([aside.name] if half else [])}


def test_a_line_that_lacks_only_its_end_is_kept(tmp_path):
    record(tmp_path, 0, 30)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    record(tmp_path, 30, 50)
    assert steps(tmp_path) == [10, 20, 30, 40, 50]


def test_a_step_is_written_once(tmp_path):
    with Recorder(tmp_path, 0) as recorder:
        recorder.write(10, "s", {"loss": 1.0})
        recorder.write(10, "s", {"loss": 2.0})
    assert [line["loss"] for line in read(tmp_path)] == [1.0]


def test_tensorboard_is_told_to_drop_what_comes_again(tmp_path):
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    record(tmp_path, 0, 50)
    before = set((tmp_path / "tensorboard").iterdir())
    record(tmp_path, 20, 50)
    (new,) = set((tmp_path / "tensorboard").iterdir()) - before
    content, starts, place = new.read_bytes(), [], 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        event = Event.FromString(content[place + 12 : place + 12 + length])
        starts += [event.step] if event.session_log.status == SessionLog.START else []
        place += 16 + length
    assert len(starts) == 1 and 20 < starts[0] <= 30


def test_the_record_needs_no_tensorflow(tmp_path):
    script = (
        "import sys; from mixlm.reports.metrics import Recorder; r = Recorder(sys.argv[1], 0); "
        "r.write(1, 's', {'loss': 1.0}); r.close(); "
        "assert not {'tensorflow', 'jax', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (5.4, "5s"), (65, "1m05s"), (3700, "1h01m"), (90000, "1d01h"), (-3, "0s"), (3599.9, "1h00m")],
)
def test_durations_read_well(seconds, words):
    assert duration(seconds) == words


TERMS = {"train/generator": 6.1, "train/rtd": 0.31, "train/span_corruption": 5.2}
VALUES = {**TERMS, "loss": 11.2, "learning_rate": 0.01, "tokens_per_second": 18234.2, "flops": 1e15, "grad_norm": 1.0}


def test_a_progress_line_has_every_term_and_fits(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(12000, 0)
    progress.update(1000, "spactor", {**VALUES, "validation/span_corruption": 4.25})
    progress.close()
    line, validation = stream.getvalue().splitlines()
    assert len(line) <= 120
    words = "1000/12000  spactor  loss 11.20  generator 6.100  rtd 0.310  span_corruption 5.200  lr 0.01  18.2k tok/s  "
    assert line.strip().startswith(words) and line.endswith(" left")
    assert validation.split() == ["validation", "span_corruption", "4.250"]


@given(st.integers(0, 200), st.lists(st.text("abcdef_", min_size=1, max_size=30), max_size=8, unique=True))
@settings(deadline=None)
def test_a_description_never_outgrows_its_room(width, terms):
    values = {**{f"train/{term}": 1.0 for term in terms}, "loss": 2.0, "learning_rate": 1e-3}
    line = describe(values, width)
    assert len(line) <= width
    if width >= 10:
        assert line.startswith("loss 2.000")


def test_a_loss_that_is_not_finite_shows():
    assert describe({"loss": float("nan")}, 80) == "loss nan"


@pytest.mark.parametrize(
    ("loss", "shown"), [(345.678, "345.68"), (1234567.0, "1.235e+06"), (1e30, "1e+30"), (float("inf"), "inf")]
)
def test_a_loss_that_diverges_fits_on_its_line(loss, shown):
    assert describe({"loss": loss, "train/causal": loss}, 80) == f"loss {shown}  causal {shown}"
    assert len(describe_validation({"validation/causal": loss})) <= len("validation  causal ") + 12


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(200, 100)
    progress.update(150, "spactor", VALUES)
    progress.say("Saved.")
    progress.update(200, "spactor", VALUES)
    progress.close()
    shown = re.split(r"[\r\n]+", stream.getvalue())
    assert any(part.startswith("150/200 |") and "generator 6.100" in part and "left" in part for part in shown)
    assert any(part.startswith("200/200 |") for part in shown)
    assert "Saved." in [part.strip() for part in shown]
    assert max(map(len, shown)) <= 120


def test_the_time_left_counts_from_where_the_run_went_on(monkeypatch):
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr("mixlm.reports.metrics.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(200, 100)
    progress.update(120, "s", {"loss": 1.0})
    assert stream.getvalue().endswith("40s left\n")
    progress.update(200, "s", {"loss": 1.0})
    assert stream.getvalue().endswith("took 20s\n")
