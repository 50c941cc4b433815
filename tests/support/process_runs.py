"""Runs by several processes on the loopback."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from support.places import TESTS
from support.runs import final_state, lines

DEVICES = jax.devices()
SCRIPT = TESTS / "support" / "small_run.py"


def free_port() -> int:
    """One below those that the kernel hands out: no connection of another test can take it before the run does."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


class Run:
    """The processes of one run, on the loopback, each with devices of its own."""

    def __init__(self, corpus, folder, processes: int, devices: int, drivers=None, **changes):
        flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
        environment = {**os.environ, "XLA_FLAGS": flags}
        coordinator = f"localhost:{free_port()}"
        self.processes = []
        for index in range(processes):
            asked = {"corpus": str(corpus), "folder": str(folder), "driver": (drivers or {}).get(index, ""), **changes}
            asked["place"] = {"coordinator": coordinator, "processes": processes, "process": index}
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, str(SCRIPT), json.dumps(asked)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )

    def ended(self) -> list[tuple[int, str, str]]:
        """Exit code, stdout and stderr of each."""
        try:
            texts = [process.communicate(timeout=240) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [(process.returncode, *text) for process, text in zip(self.processes, texts)]


def at_step(step: int, action: str) -> str:
    """A driver that does something when a step's figures are there and what was being saved is saved."""
    return f"""
import os, signal
settle = loop.Loop.settle
def until(self, done, metrics, params=None):
    settle(self, done, metrics, params)
    if done == {step}:
        self.checkpoints.wait()
        {action}
loop.Loop.settle = until
"""


KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
STOPPED = "os.kill(os.getpid(), signal.SIGTERM)"


def assert_equal_runs(made, wanted):
    """The same steps, losses and validation, and the same parameters, to rounding."""
    left, right = lines(made), lines(wanted)
    assert [line["step"] for line in left] == [line["step"] for line in right] == list(range(1, 13))
    for one, other in zip(left, right):
        # A run that ended before it went on has yardsticks in its last line of then.
        one, other = ({name: line[name] for name in line if not name.startswith("yardstick/")} for line in (one, other))
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value == (value if isinstance(value, str) else pytest.approx(other[name], rel=1e-4, abs=1e-5)), name
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    same_parameters(made, wanted)


def same_parameters(made, wanted):
    """Those of the last step, to rounding."""
    (step, state), (_, wanted_state) = final_state(made), final_state(wanted)
    assert step == 12
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-3, atol=2e-5),
        state.params,
        wanted_state.params,
    )
