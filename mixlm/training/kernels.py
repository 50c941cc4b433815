"""Kernels of a run of several processes: process 0 compares them, and all trace the same program."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax

from mixlm.parallel.processes import broadcast
from mixlm.perf.kernel_proofs import difference, noted, settle


def agree(on: str, step: Callable[..., Any], arguments: tuple[Any, ...], objectives: Iterable[Any]) -> None:
    """Takes over the verdicts of process 0 on every kernel that `step(*arguments, objective)` asks for, on a platform.

    A single process compares a kernel where it is first traced; several could come to different verdicts there, and on
    a CPU there are no kernels.
    """
    if jax.process_count() == 1 or on == "cpu":
        return
    with noted() as found:
        for objective in objectives:
            jax.eval_shape(lambda *given, of=objective: step(*given, of), *arguments)
    for kernel in sorted(found):
        settle(kernel, broadcast(partial(difference, kernel, found[kernel])))
