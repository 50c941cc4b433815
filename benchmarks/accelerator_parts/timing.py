"""The time of a step: the median over blocks of steps, each block waited for as a whole."""

import statistics
import time
from collections.abc import Callable
from typing import Any

CEILING = 8192  # rows and columns of the product that is the ceiling
BLOCKS = 7  # Ours: an odd number, so that the median is one of them.
BLOCK_SECONDS = 0.7  # Ours: long next to the waiting at its end.


def timed(step: Callable[[], Any], wait: Callable[[], Any], blocks: int = BLOCKS) -> dict[str, float]:
    """Seconds of `step`, whose work `wait` waits for: the median block, the fastest, the slowest, and their number."""
    step()
    wait()
    begun = time.perf_counter()
    step()
    wait()
    each = max(round(BLOCK_SECONDS / max(time.perf_counter() - begun, 1e-6)), 1)
    found = []
    for _ in range(blocks):
        begun = time.perf_counter()
        for _ in range(each):
            step()
        wait()
        found.append((time.perf_counter() - begun) / each)
    return {
        "step_seconds": statistics.median(found),
        "fastest_seconds": min(found),
        "slowest_seconds": max(found),
        "steps_timed": each * blocks,
    }
