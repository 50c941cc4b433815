"""The fuzzer sees what is wrong with how a command ends, and finds nothing wrong with a few odd inputs."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

FUZZ = ROOT / "benchmarks"


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(FUZZ))
    import fuzz

    return fuzz


@pytest.mark.parametrize(
    ("verdict", "code", "err", "faults"),
    [
        ("either", 0, "", 0),
        ("either", 2, "error: x\n", 0),
        ("good", 0, "a note\n", 0),
        ("bad", 2, "a note\nerror: x\n", 0),
        ("either", None, "", 1),
        ("either", 0, "error: x\n", 1),
        ("either", 2, "", 1),
        ("either", 2, "error: x\nerror: y\n", 1),
        ("bad", 0, "", 1),
        ("good", 2, "error: x\n", 1),
        ("either", 1, "Traceback (most recent call last):\n", 2),
        ("either", -9, "", 1),
    ],
)
def test_how_a_command_ends_is_judged(fuzz, verdict, code, err, faults):
    assert len(fuzz.judged(fuzz.inputs.Case((), verdict), code, "", err)) == faults


def test_what_is_lost_is_seen(fuzz, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "3").mkdir(parents=True)
    (run / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 2}\n')
    (tmp_path / "text").write_bytes(b"kept")
    case = fuzz.inputs.Case((), run=run, whole_steps=frozenset({3}), lines=(b'{"step": 1, "loss": 2}',))
    before = fuzz.kept(tmp_path)
    assert fuzz.lost(case, before, tmp_path, 2) == []
    (run / "metrics.jsonl").rename(run / "metrics.damaged")
    assert fuzz.lost(case, before, tmp_path, 2) == []
    (run / "metrics.damaged").write_bytes(b"")
    (run / "checkpoints" / "3").rmdir()
    (tmp_path / "text").write_bytes(b"changed")
    assert len(fuzz.lost(case, before, tmp_path, 2)) == 3


@pytest.mark.slow
def test_odd_inputs_end_in_a_sentence_and_lose_nothing():
    # Beside other tests on two cores, what compiles two stages takes minutes; a hang is one all the same.
    command = [sys.executable, str(Path(FUZZ) / "fuzz.py"), "--count=21", "--jobs=2", "--seed=7", "--limit=300"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
