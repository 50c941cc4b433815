"""Executables, one per objective, compiled ahead in the background so that the switch at tau does not stall."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mixlm.flops import matmul_flops
from mixlm.objectives.base import Objective


class Executables:
    """`jitted(*arguments, objective)`, traced and compiled once for each distinct objective on a thread of its own.

    `arguments` are abstract, with shardings.
    """

    def __init__(self, jitted: Any, *arguments: Any):
        self._jitted, self._arguments = jitted, arguments
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self._traced: dict[Objective, Future[Any]] = {}
        self._compiled: dict[Objective, Future[Any]] = {}
        self._flops: dict[Objective, float] = {}

    def trace(self, objective: Objective) -> Future[Any]:
        """Begins to trace, unless that was done before."""
        if objective not in self._traced:
            self._traced[objective] = self._pool.submit(lambda: self._jitted.trace(*self._arguments, objective))
        return self._traced[objective]

    def prepare(self, objective: Objective) -> Future[Any]:
        """Begins to compile, unless that was done before."""
        if objective not in self._compiled:
            traced = self.trace(objective)
            self._compiled[objective] = self._pool.submit(lambda: traced.result().lower().compile())
        return self._compiled[objective]

    def __getitem__(self, objective: Objective) -> Any:
        """The executable (a `jax.stages.Compiled`), waited for where it is not ready."""
        return self.prepare(objective).result()

    def matmul_flops(self, objective: Objective) -> float:
        """The FLOPs of all matrix products of one call, over all devices; known before it is compiled."""
        if objective not in self._flops:
            self._flops[objective] = matmul_flops(self.trace(objective).result().jaxpr)
        return self._flops[objective]

    def close(self) -> None:
        """Drops what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
