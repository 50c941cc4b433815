"""One trace and one executable for each distinct objective, made in the background."""

import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.tokens import TokenIds
from mixlm.training.executables import Executables

TOKENS = TokenIds(vocab_size=64, mask=3, sentinels=8)
X = jax.ShapeDtypeStruct((4, 6), jnp.float32)


class Counted:
    """A function of an array and an objective that notes each of its traces."""

    def __init__(self):
        self.traces = []

    def call(self, x, objective):
        self.traces.append(objective)
        return (x @ x.T) * objective.spans.noise_density if isinstance(objective, SpacTor) else x @ x.T + 1


def test_what_replaces_import_is_imported_before_a_thread_traces():
    script = """
import sys
import jax
from mixlm.training.executables import Executables
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.tokens import TokenIds
seen = ["grain" in sys.modules]
def noting(x, objective):
    seen.append("grain" in sys.modules)
    return x
made = Executables(noting, jax.ShapeDtypeStruct((2,), "float32"))
made.trace(SpanCorruption(TokenIds(vocab_size=64, mask=3, sentinels=8))).result()
print(seen)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[False, True]\n"


@pytest.fixture
def counted():
    return Counted()


@pytest.fixture
def executables(counted):
    made = Executables(counted.call, X)
    yield made
    made.close()


def spans(density: float = 0.15) -> SpanCorruption:
    return SpanCorruption(TOKENS, noise_density=density)


def test_three_stages_of_two_objectives_are_two_traces(counted, executables):
    for objective in (SpacTor(spans()), spans(), SpacTor(spans())):
        executables.trace(objective)
    found = [executables.compile(objective).result() for objective in (SpacTor(spans()), spans(), SpacTor(spans()))]
    assert found[0] is found[2] and found[0] is not found[1]
    assert executables.matmul_flops(spans()) == 2 * 4 * 4 * 6
    assert [type(objective) for objective in counted.traces] == [SpacTor, SpanCorruption]


def test_another_value_is_another_trace(counted, executables):
    assert executables.compile(spans(0.15)).result() is not executables.compile(spans(0.3)).result()
    assert len(counted.traces) == 2


def test_a_number_that_may_vary_is_an_argument_of_one_executable():
    traces = []

    def weighted(x, objective):
        traces.append(objective)
        return x * objective.lambda1 + objective.lambda2

    executables, x = Executables(weighted, X), jnp.ones((4, 6))
    for lambda1, lambda2 in ((1.0, 0.0), (10.0, 2.0), (0.5, 7.0)):
        found = executables[SpacTor(spans(), lambda1=lambda1, lambda2=lambda2)](x)
        np.testing.assert_array_equal(found, lambda1 + lambda2)
    assert len(traces) == 1 and len(executables.program._compiled) == 1
    executables.close()


@dataclass(frozen=True)
class Scaled:
    """A function with a number of its own that may vary, and one that may not."""

    traced: ClassVar[tuple[str, ...]] = ("scale",)
    scale: float
    shift: float = 1.0

    def __call__(self, x, objective):
        return self.scale * x + objective.lambda1 + self.shift


def test_the_functions_own_numbers_are_arguments_too():
    x, found = jnp.ones((4, 6)), []
    for scale in (2.0, 5.0):
        executables = Executables(Scaled(scale), X)
        objective = SpacTor(spans(), lambda1=10.0 * scale)
        np.testing.assert_array_equal(executables[objective](x), 11 * scale + 1)
        found.append(executables.trace(objective).result().lower().as_text())
        executables.close()
    assert found[0] == found[1]


def test_the_executable_computes_what_the_jitted_function_does(counted, executables):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    for objective in (spans(), SpacTor(spans(0.3))):
        np.testing.assert_array_equal(executables[objective](x), jax.jit(counted.call, static_argnums=1)(x, objective))


def test_preparing_does_not_block(counted):
    may_trace = threading.Event()

    def patient(x, objective):
        assert may_trace.wait(timeout=60)
        return counted.call(x, objective)

    executables = Executables(patient, X)
    future = executables.compile(spans())
    assert not future.done() and counted.traces == []
    may_trace.set()
    executables[spans()]
    assert future.result() is executables.compile(spans()).result()
    assert len(counted.traces) == 1
    executables.close()


def test_a_trace_that_fails_fails_where_its_executable_is_wanted():
    def broken(x, objective):
        raise RuntimeError("no such network")

    executables = Executables(broken, X)
    executables.compile(spans())
    with pytest.raises(RuntimeError, match="no such network"):
        executables[spans()]
    executables.close()
