"""Counting the floating-point operations of a traced function's matrix products, exactly and before compiling it."""

import math
from typing import Any

from jax.extend import core
from jax.interpreters import partial_eval


def matmul_flops(jaxpr: core.ClosedJaxpr) -> float:
    """The FLOPs of every matrix product in a jaxpr: 2 * batch * rows * columns * contracted, loops times their length.

    What is recomputed under `jax.checkpoint` counts as often as it runs; of a conditional the dearest branch counts, so
    a kernel's blocks all count, those that it will skip too.
    What no output needs does not count: XLA drops it, such as the networks in the pass that only counts tokens.
    """
    needed, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    return math.fsum(_of_equation(equation) for equation in needed.eqns)


def _of_equation(equation: Any) -> float:
    if equation.primitive.name == "dot_general":
        contracted = equation.params["dimension_numbers"][0][0]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    inner = [matmul_flops(sub) for sub in _jaxprs(equation.params)]
    if equation.primitive.name == "cond":
        return max(inner, default=0.0)
    return math.fsum(inner) * _times(equation)


def _times(equation: Any) -> int:
    """How often an equation runs what is inside of it: a loop's length, a kernel's grid, a mesh's devices."""
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return int(params["length"])
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return int(params["mesh"].size) if name == "shard_map" else 1


def _jaxprs(params: dict[str, Any]) -> list[core.ClosedJaxpr]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(item, core.ClosedJaxpr):
                found.append(item)
            elif isinstance(item, core.Jaxpr):
                found.append(core.ClosedJaxpr(item, ()))
    return found
