"""Formulas over macros, `BUDGET // REPEATS` or `f"runs/{NAME}"`, read as Python and computed without running code."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from mixlm.errors import UserError, nearest

Derived = int | float | str
_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": abs, "int": int, "max": max, "min": min, "round": round}
LARGEST = 2**63  # What a macro may hold; a power beyond it would take memory without end.


def names_in(formula: str) -> set[str]:
    """The macros that a formula reads; none where it cannot be read."""
    try:
        tree = ast.parse(formula.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return set()
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - _FUNCTIONS.keys()


def computed(formula: str, value_of: Callable[[str], Any], where: str) -> Derived:
    """The number or text that a formula gives, with `value_of` each macro; UserError begins with `where`.

    It has numbers, + - * / // % **, brackets, entries such as TASK_FEATURE_LENGTHS["targets"], abs, int, max, min and
    round; or it is a text with such formulas in braces, f"runs/{NAME},seed={SEED}".
    """
    try:
        found = _of(ast.parse(formula.strip(), mode="eval").body, value_of)
    except UserError as error:
        raise UserError(f"{where} = {formula!r}: {error}") from None
    except ZeroDivisionError:
        raise UserError(f"{where} = {formula!r} divides by zero.") from None
    except (SyntaxError, TypeError, ValueError, OverflowError, RecursionError):
        raise UserError(f"{where} = {formula!r} is neither arithmetic nor text with macros in braces.") from None
    if isinstance(found, bool) or not isinstance(found, Derived):
        raise UserError(f"{where} = {formula!r} gives {found!r}, which is neither a number nor text.")
    return found


def _of(node: ast.expr, value_of: Callable[[str], Any]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.Name):
        return value_of(node.id)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, value_of) for part in node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _number(_of(node.operand, value_of), node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = (_number(_of(side, value_of), side) for side in (node.left, node.right))
        if isinstance(node.op, ast.Pow) and (abs(left) > LARGEST or abs(right) > 64):
            raise UserError("the power is too large.")
        return _OPERATIONS[type(node.op)](left, right)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return _entry(_of(node.value, value_of), node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in _FUNCTIONS:
            raise UserError(f"there is no function {node.func.id!r}.{nearest(node.func.id, _FUNCTIONS)}")
        return _FUNCTIONS[node.func.id](*(_number(_of(part, value_of), part) for part in node.args))
    raise UserError(f"{ast.unparse(node)!r} is no arithmetic over macros.")


def _number(value: Any, node: ast.expr) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{ast.unparse(node)} is {value!r}, and no number.")
    return value


def _text(part: ast.expr, value_of: Callable[[str], Any]) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    if isinstance(part, ast.FormattedValue) and part.conversion == -1 and part.format_spec is None:
        value = _of(part.value, value_of)
        if isinstance(value, bool) or not isinstance(value, Derived):
            raise UserError(f"{ast.unparse(part.value)} is {value!r}, neither a number nor text.")
        return str(value)
    raise UserError(f"{ast.unparse(part)!r} is more than a formula in braces.")


def _entry(held: Any, node: ast.Subscript) -> Any:
    assert isinstance(node.slice, ast.Constant)
    key = node.slice.value
    if isinstance(held, Mapping) and key in held:
        return held[key]
    if isinstance(held, tuple | list) and type(key) is int and -len(held) <= key < len(held):
        return held[key]
    raise UserError(f"{ast.unparse(node.value)} has no entry {key!r}.")
