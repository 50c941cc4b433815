"""Claims on cells: one process at a time, freed however it ends; shares of a machine, none twice."""

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.sweeps.folder import StudyFolder
from mixlm.sweeps.jobs import shared_out, take_share

HOLD = """
import sys, time
from mixlm.sweeps.folder import StudyFolder
with StudyFolder(sys.argv[1]).claim("a") as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    found = StudyFolder(tmp_path / "study")
    found.write({"name": "a"})
    return found


def test_a_claim_is_one_process_s_until_it_is_killed(folder):
    assert not folder.is_claimed("a")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        assert folder.is_claimed("a") and not folder.is_claimed("b")
        with folder.claim("a") as mine, folder.claim("b") as another:
            assert not mine and another
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert not folder.is_claimed("a")
    with folder.claim("a") as mine:
        assert mine and folder.is_claimed("a")


def test_a_record_keeps_what_is_not_taken_out(folder):
    folder.note("a", error="It broke.", seconds=1.5)
    folder.note("a", error=None, version="1")
    assert folder.record("a") == {"seconds": 1.5, "version": "1"} and folder.record("b") == {}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(), min_size=1, max_size=20, unique=True), st.integers(1, 30))
def test_shares_are_equal_and_cover_all(things, jobs):
    shares = [shared_out(things, index, jobs) for index in range(jobs)]
    assert {each for share in shares for each in share} == set(things)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1
    if jobs <= len(things):
        assert sum(sizes) == len(things)


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="is INDEX/COUNT"):
        take_share(text)
