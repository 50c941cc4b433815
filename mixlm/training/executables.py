"""Executables, one per objective, compiled in the background so that a switch of stages does not stall."""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np

from mixlm.data.loader.quiet_grain import import_grain
from mixlm.objectives.base import Objective
from mixlm.perf.flops import flops_by_scope
from mixlm.training import programs, traced_hparams


class Executables:
    """`function(*arguments, objective)`, traced and compiled once for each distinct objective on a thread of its own.

    `arguments` are abstract, with shardings; `options` are those of `jax.jit`. Objectives that differ only in numbers
    that may vary (see `traced_hparams`) share one executable; such numbers of the function itself, a dataclass like
    `Step`, are arguments too, so that another learning rate finds its executable in a cache of an earlier process.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, **options: Any):
        unnumbered, self._own = traced_hparams.hoist(function)
        key = (unnumbered, programs.flat(arguments), programs.flat(options))
        self.program = programs.program(key, lambda: _Program(unnumbered, len(self._own), arguments, options))

    def trace(self, objective: Objective) -> Future[Any]:
        """Traces on the thread, once per objective."""
        static, numbers = traced_hparams.hoist(objective)
        return self.program.trace(static, len(self._own) + len(numbers))

    def compile(self, objective: Objective) -> Future[Any]:
        """Compiles on the thread, once per objective."""
        static, numbers = traced_hparams.hoist(objective)
        return self.program.compile(static, len(self._own) + len(numbers))

    def __getitem__(self, objective: Objective) -> Callable[..., Any]:
        """The executable of the objective; waits until it is compiled."""
        _, numbers = traced_hparams.hoist(objective)
        return partial(_call, self.compile(objective).result(), tuple(map(np.float32, self._own + numbers)))

    def memory(self, objective: Objective) -> Any:
        """XLA's account of the executable's memory on each device."""
        return self.compile(objective).result().memory_analysis()

    def matmul_flops(self, objective: Objective) -> float:
        """The FLOPs of all matrix products of one call, over all devices; known before it is compiled."""
        return math.fsum(self.flops_by_scope(objective).values())

    def flops_by_scope(self, objective: Objective) -> dict[str, float]:
        """`matmul_flops` by the name stack of the products (see `flops.flops_by_scope`)."""
        static, _ = traced_hparams.hoist(objective)
        if static not in self.program.flops:
            self.program.flops[static] = flops_by_scope(self.trace(objective).result().jaxpr)
        return self.program.flops[static]

    def close(self) -> None:
        """Cancels compilations that have not begun, unless another run may want them."""
        if not programs.is_kept(self.program):
            self.program.close()


class _Program:
    """A function without its numbers, and what it was traced and compiled to for each objective without its own."""

    def __init__(self, unnumbered: Any, own: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        def run(*given: Any) -> Any:
            *rest, numbers, objective = given
            bound = traced_hparams.bind(unnumbered, numbers[:own])
            return bound(*rest, traced_hparams.bind(objective, numbers[own:]))

        self._jitted = jax.jit(run, static_argnums=len(arguments) + 1, **options)
        self._arguments = arguments
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self._traced: dict[Any, Future[Any]] = {}
        self._compiled: dict[Any, Future[Any]] = {}
        self.flops: dict[Any, dict[str, float]] = {}

    def trace(self, static: Any, count: int) -> Future[Any]:
        if static not in self._traced:
            import_grain()
            scalars = (jax.ShapeDtypeStruct((), np.float32),) * count
            self._traced[static] = self._pool.submit(lambda: self._jitted.trace(*self._arguments, scalars, static))
        return self._traced[static]

    def compile(self, static: Any, count: int) -> Future[Any]:
        if static not in self._compiled:
            traced = self.trace(static, count)
            self._compiled[static] = self._pool.submit(lambda: traced.result().lower().compile())
        return self._compiled[static]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _call(compiled: Any, numbers: tuple[np.float32, ...], *arguments: Any) -> Any:
    return compiled(*arguments, numbers)
