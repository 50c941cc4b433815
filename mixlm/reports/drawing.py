"""Curves of many runs at once, drawn by processes of their own: a picture takes a second of a core."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixlm.reports.curves import draw

FEWEST = 4  # Ours: pictures for a process, which takes a second to begin.


def draw_all(pictures: Sequence[Mapping[str, Any]]) -> None:
    """Draws pictures, each the arguments of `curves.draw` by name, as JSON holds them; what a process fails at is drawn
    here, so that its error is the picture's own.
    """
    count = min(len(os.sched_getaffinity(0)), len(pictures) // FEWEST)
    shares = [pictures[index::count] for index in range(count)] if count > 1 else []
    failed = [] if shares else list(pictures)
    for share, process in [(share, _started(share)) for share in shares]:
        if process.wait():
            failed += share
    for picture in failed:
        draw(**picture)


def _started(pictures: Sequence[Mapping[str, Any]]) -> "subprocess.Popen[str]":
    """A process that draws pictures; it finds mixlm where this one did."""
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mixlm.reports.drawing"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
    )
    assert process.stdin is not None
    try:
        json.dump(pictures, process.stdin)
        process.stdin.close()
    except BrokenPipeError:  # it ended already, and its exit status says so
        pass
    return process


if __name__ == "__main__":
    for each in json.load(sys.stdin):
        draw(**each)
