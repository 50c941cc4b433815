"""Kernels of a run of several processes: process 0 compares them, and all trace the same program."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from mixlm.parallel.logical_axes import Layout
from mixlm.parallel.processes import broadcast
from mixlm.perf.kernel_proofs import difference, noted, settle


def agree(layout: Layout, step: Callable[..., Any], arguments: tuple[Any, ...], objectives: Iterable[Any]) -> None:
    """Takes over the verdicts of process 0 on every kernel that `step(*arguments, objective)` asks for.

    A single process compares a kernel where it is first traced; several could come to different verdicts there, and on
    a CPU there are no kernels.
    """
    if jax.process_count() == 1 or layout.mesh.devices.flat[0].platform == "cpu":
        return
    with noted() as found:
        for objective in objectives:
            jax.eval_shape(lambda *given, of=objective: step(*given, of), *arguments)
    for kernel in sorted(found):
        settle(kernel, broadcast(lambda kernel=kernel: difference(kernel, found[kernel])))
