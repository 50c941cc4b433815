"""Where the time of a step goes, by kind of operation: used by `step.py --ops N`."""

import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax

from mixlm.perf.hlo import Instruction, Module, module

LOOPS = ("while", "call", "conditional")  # what runs inside of them is counted on its own


def kinds(case: Any, count: int) -> list[tuple[str, float]]:
    """The kinds that take longest in one step, with their milliseconds.

    On one core (`taskset -c 0`) these add up to the step. On several XLA notes what the thread does that began an
    operation, and not the threads that help it.
    """
    compiled = module(case.compiled.as_text())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            case.run()
        (trace,) = Path(folder).rglob("*.xplane.pb")
        found: Counter[str] = Counter()
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for line in plane.lines:
                for event in line.events:
                    run = compiled.lines.get(str(dict(event.stats).get("hlo_op")))
                    if run is not None and run.opcode not in LOOPS:
                        found[kind(compiled, run)] += event.duration_ns / 1e6
    return found.most_common(count)


def kind(compiled: Module, run: Instruction) -> str:
    """A product, with the batch dimensions of attention or without, or the JAX primitive that a fusion ends in."""
    for each in (run, *(each for name in run.called for each in compiled.computations.get(name, ()))):
        if each.opcode == "dot":
            batched = re.search(r"lhs_batch_dims=\{\d", each.attributes)
            return "products of attention" if batched else "products with parameters"
    path = re.search(r'op_name="([^"]*)"', run.attributes)
    return re.sub(r"[.\d]+$", "", path[1].split("/")[-1]) if path else run.opcode
