"""A device is measured case by case: one that fails or hangs ends no other, and what is there is not measured again."""

import argparse
import json
import subprocess
import sys
import time

import pytest
from support.places import ROOT

PARTS = ROOT / "benchmarks/accelerator_parts"
# Children that need neither framework.
CHILD = """
import sys, time
sys.path.insert(0, {parts!r})
from cases import Device
device = Device()
like = device.wait()
how = device.settings["how"]
device.note(rows=8)
if how == "fails":
    raise SystemExit("RESOURCE_EXHAUSTED: it does not fit")
if how == "hangs":
    time.sleep(60)
device.note(like=like and like["rows"])
device.done()
"""


@pytest.fixture
def cases(monkeypatch):
    monkeypatch.syspath_prepend(str(PARTS))
    import cases

    return cases


@pytest.fixture
def measured(cases, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(parts=str(PARTS)))

    def run(*hows, seconds=60.0, limit=1.5):
        given = argparse.Namespace(seconds=seconds, out=str(tmp_path / "out.json"), cache=None, tiny=True, only=None)
        listed = [cases.Case(how, str(script), {"how": how}, limit, like="works") for how in hows]
        cases.run_in_turns(listed, cases.Results(tmp_path / "out.json"), given)
        return json.loads((tmp_path / "out.json").read_text()) if (tmp_path / "out.json").exists() else {}

    return run


def test_a_case_that_fails_or_hangs_ends_no_other(measured):
    begun = time.monotonic()
    found = measured("works", "fails", "hangs", "also works", limit=2.5)
    assert time.monotonic() - begun < 30
    assert "RESOURCE_EXHAUSTED" in found["fails"]["error"] and "still running" in found["hangs"]["error"]
    assert found["hangs"]["rows"] == 8  # what was noted before it hung
    assert found["also works"]["like"] == 8 and "error" not in found["also works"]


def test_what_is_there_is_not_measured_again_and_what_failed_is(measured, cases, tmp_path):
    results = cases.Results(tmp_path / "out.json")
    results.put("works", {"rows": 3})
    results.put("again", {"error": "it did not fit"})
    assert measured("again", "works")["works"] == {"rows": 3}
    assert "error" not in measured("again")["again"]


def test_no_case_is_begun_when_the_time_is_over(measured, cases):
    assert measured("works", seconds=cases.LEAST - 1) == {}


@pytest.mark.slow
def test_a_step_of_a_recipe_is_timed_beside_the_ceiling(tmp_path):
    out = tmp_path / "fast.json"
    command = [sys.executable, str(PARTS / "fast.py"), "--tiny", f"--out={out}", "--only", "ceiling", "mile 468M"]
    subprocess.run(command, check=True, timeout=560)
    found = json.loads(out.read_text())
    assert found["ceiling"]["tflops"] > 0
    case = found["mile 468M"]
    assert case["tokens_per_second"] == pytest.approx(case["rows"] * case["length"] / case["step_seconds"])
    assert 0 < case["model_flops"] <= case["step_flops"]
    assert case["last_loss"] < case["first_loss"]


def test_kernels_are_those_of_the_device_alone_longest_first(cases):
    from kernels import longest

    def event(name, tid, microseconds):
        return {"name": name, "ph": "X", "pid": 1, "tid": tid, "dur": microseconds, "args": {"hlo_op": f"of {name}"}}

    names = [("process_name", None, "/device:GPU:0"), ("thread_name", 3, "Stream #13"), ("thread_name", 4, "Steps")]
    told = [{"name": kind, "pid": 1, "tid": tid, "args": {"name": name}} for kind, tid, name in names]
    found = longest([*told, event("a", 3, 2000), event("b", 3, 2500), event("a", 3, 1000), event("step", 4, 9000)], 5)
    assert [(each["kernel"], each["ms"], each["calls"]) for each in found] == [("a", 3.0, 2), ("b", 2.5, 1)]
    assert found[0]["op"] == "of a"
