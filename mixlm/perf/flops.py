"""FLOPs of a traced function's matrix products, counted exactly from its jaxpr."""

import math
from collections.abc import Iterable
from typing import Any

from jax.extend import core
from jax.interpreters import partial_eval

# JAX's primitives of cuDNN's flash attention and their products [T, S, K], which no jaxpr shows: scores and output; the
# gradients of weights, queries, keys and values. Scores that the gradient computes again are not among them.
_ATTENTION = {"dot_product_attention_fwd": 2, "dot_product_attention_bwd": 4}


def matmul_flops(jaxpr: core.ClosedJaxpr) -> float:
    """The FLOPs of every matrix product in a jaxpr: 2 * batch * rows * columns * contracted, loops times their length.

    Recomputation under `jax.checkpoint` counts as often as it runs. Of a conditional the most expensive branch counts,
    so all blocks of a kernel do, skipped ones included. Dead code does not count, since XLA drops it.
    """
    return math.fsum(flops_by_scope(jaxpr).values())


def flops_by_scope(jaxpr: core.ClosedJaxpr, outside: str = "") -> dict[str, float]:
    """`matmul_flops` by the name stack of the products: scopes (`jax.named_scope`) and transformations, with slashes.

    A gradient's product has the scope of its forward product, within `transpose`; recomputation under `jax.checkpoint`
    has `rematted_computation` in its stack. `outside` is the stack of the jaxpr itself.
    """
    needed, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    return _added(_of_equation(equation, outside) for equation in needed.eqns)


def _of_equation(equation: Any, outside: str) -> dict[str, float]:
    stack = f"{outside}/{equation.source_info.name_stack}"
    if equation.primitive.name == "dot_general":
        contracted = equation.params["dimension_numbers"][0][0]
        left = equation.invars[0].aval.shape
        product = math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        return {stack: 2.0 * product}
    products = _ATTENTION.get(equation.primitive.name.removesuffix("_wrapper"))
    if products is not None:
        rows, queries, heads, width = equation.invars[0].aval.shape
        return {stack: 2.0 * products * rows * heads * queries * equation.invars[1].aval.shape[1] * width}
    inner = [flops_by_scope(sub, stack) for sub in _jaxprs(equation.params)]
    if equation.primitive.name == "cond":
        return max(inner, key=lambda branch: math.fsum(branch.values()), default={})
    times = _times(equation)
    return {scope: times * flops for scope, flops in _added(inner).items()}


def _times(equation: Any) -> int:
    """Trip count of an equation's inner jaxpr: a loop's length, a kernel's grid, a mesh's devices."""
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return int(params["length"])
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return int(params["mesh"].size) if name == "shard_map" else 1


def _added(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in parts:
        for scope, flops in part.items():
            found[scope] = found.get(scope, 0.0) + flops
    return found


def _jaxprs(params: dict[str, Any]) -> list[core.ClosedJaxpr]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(item, core.ClosedJaxpr):
                found.append(item)
            elif isinstance(item, core.Jaxpr):
                found.append(core.ClosedJaxpr(item, ()))
    return found
