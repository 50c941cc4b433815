"""Benchmarks that take seconds at their smallest run to their end, as commands."""

import json
import subprocess
import sys

import pytest
from support.places import ROOT


@pytest.mark.slow
def test_the_loops_overhead_is_measured(tmp_path):
    command = [
        sys.executable,
        ROOT / "benchmarks" / "loop.py",
        "--recipes=mile",
        "--steps=2",
        "--rounds=2",
        "--starts=0",
    ]
    subprocess.run([*command, f"--json={tmp_path}/found.json"], check=True, timeout=600)
    found = json.loads((tmp_path / "found.json").read_text())["mile"]
    assert len(found["bare_s"]) == len(found["loop_s"]) == 2
    assert found["tokens_per_second_loop"] == pytest.approx(2 * 16 * 128 / (found["loop_ms"] * 2 / 1000))
