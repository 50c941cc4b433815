"""Freed memory is kept: allocating as much again faults no page."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from mixlm.perf.malloc import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)  # 128 MiB, which malloc would take from the system and give back
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_freed()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_freed_pages_are_reused_without_page_faults():
    def faults(what: str) -> int:
        return int(subprocess.run([sys.executable, "-c", PROGRAM, what], capture_output=True, check=True).stdout)

    assert faults("keep") < 100 < faults("plain")
