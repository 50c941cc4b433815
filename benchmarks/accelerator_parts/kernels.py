"""The kernels that a step spends its time in, by a profile of the device."""

import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def kernels(run: Callable[[], Any], most: int = 15) -> list[dict[str, Any]]:
    """The kernels with the longest times of `run`, which waits for the device: milliseconds, calls, and the operation.

    Empty where the profiler sees no device, such as on a CPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        traces = list(Path(folder).glob("plugins/profile/*/*.trace.json.gz"))
        events = json.loads(gzip.decompress(traces[0].read_bytes()))["traceEvents"] if traces else []
    return longest(events, most)


def longest(events: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Events of the device's streams, added up by name."""
    devices = {e["pid"] for e in events if e.get("name") == "process_name" and "/device:" in e["args"]["name"]}
    streams = {
        (e["pid"], e["tid"])
        for e in events
        if e.get("name") == "thread_name" and e["pid"] in devices and "stream" in e["args"]["name"].lower()
    }
    added: dict[str, dict[str, Any]] = defaultdict(lambda: {"ms": 0.0, "calls": 0, "op": ""})
    for event in events:
        if event.get("ph") == "X" and (event["pid"], event["tid"]) in streams:
            found = added[event["name"]]
            found["ms"], found["calls"] = found["ms"] + event["dur"] / 1000, found["calls"] + 1
            arguments = event.get("args", {})
            found["op"] = str(arguments.get("tf_op") or arguments.get("hlo_op") or "")[-120:]
    ranked = sorted(added.items(), key=lambda each: -each[1]["ms"])[:most]
    return [{"kernel": name[:120], **found} for name, found in ranked]
