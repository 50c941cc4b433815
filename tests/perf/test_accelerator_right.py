"""The record of what an accelerator computes goes on where it was stopped, and the script finds a CPU right."""

import json
import os
import subprocess
import sys
import time

import pytest
from support.places import ROOT

PARTS = ROOT / "benchmarks" / "accelerator_parts"


@pytest.fixture
def record(monkeypatch):
    monkeypatch.syspath_prepend(str(PARTS))
    import record

    return record


def test_a_record_goes_on_where_it_was_stopped(record, tmp_path, capsys):
    out, ran = tmp_path / "found.json", []

    def case(name):
        def run():
            ran.append(name)
            if name == "bad":
                raise ValueError("no such kernel")
            return {"right": True, "said": "right"}

        return name, run

    first = record.Record(out, time.time() + 60)
    for name in ("good", "bad"):
        first.case(*case(name))
    found = json.loads(out.read_text())
    assert found["good"]["right"] and found["bad"]["error"] == "ValueError: no such kernel"
    # A process that ends within a case leaves its name, and the next one leaves it out.
    out.write_text(json.dumps({**found, "crash": record.BEGUN}))
    for until, asked in ((time.time() - 1, ()), (time.time() + 60, ("n",))):
        again = record.Record(out, until, asked)
        for name in ("good", "bad", "crash", "other", "new"):
            again.case(*case(name))
    assert ran == ["good", "bad", "new"]
    assert json.loads(out.read_text())["crash"] == {"error": "the process ended or hung in this case"}
    out.write_text(json.dumps({"good": found["good"], "cut": record.BEGUN}))
    record.unmark(out)  # The budget ended it, so it is for the next call.
    assert list(json.loads(out.read_text())) == ["good"]
    assert capsys.readouterr().out.splitlines() == ["good: right", "bad: ValueError: no such kernel", "new: right"]


@pytest.mark.slow
def test_a_cpu_is_right(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, str(PARTS / "right.py"), "--tiny", "--seconds=600", f"--out={out}"]
    only = ["attention", "golden", "losses/dual", "resume/default/float32"]
    done = subprocess.run([*command, "--only", *only], env=os.environ | {"XLA_FLAGS": ""}, timeout=900, check=False)
    found = json.loads(out.read_text())
    assert done.returncode == 0 and found.pop("measured on")["platform"] == "cpu" and len(found) == 4 + 7 + 1 + 1
    assert {name: case.get("error") for name, case in found.items() if not case.get("right")} == {}
    assert found["attention/bfloat16/mask/128"]["errors"].keys() == {"plain", "auto", "recomputed", "splash"}
