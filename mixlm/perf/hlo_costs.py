"""XLA's cost analysis, corrected for trip counts of loops and for the memory space that an access goes to."""

import math
import re
from collections.abc import Iterator

from mixlm.perf.hlo import Instruction, Module, dimensions, module, sizes

# An array in on-chip memory instead of HBM.
_NEAR = re.compile(r"\[[\d,]*\](\{[^{}]*S\([1-9]\)[^{}]*\})")
_RANGE = re.compile(r"\[(\d+):(\d+)\]")
_ESTIMATE = re.compile(r'"cost_estimate":\{"flops":"(\d+)"')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
# Opcodes that access no memory, or whose accesses are counted inside of them.
_FREE = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "call", "conditional", "after-all")


def loop_bytes(module: Module) -> float:
    """Bytes accessed by all iterations of loops but the first, which XLA's analysis counts."""
    return float(sum((times - 1) * accessed(module, line) for line, times in module.runs() if times > 1))


def hbm_bytes(text: str) -> float:
    """The bytes that a compiled program reads from and writes to HBM, all iterations of its loops counted.

    XLA's own "bytes accessed" counts a prefetched array up to four more times: as it is copied, and as it is used.
    """
    far = module(_NEAR.sub(r"[0]\1", text))
    return float(sum(times * accessed(far, line) for line, times in far.runs()))


def loop_flops(module: Module) -> float:
    """FLOPs of matrix products and kernels in all iterations of loops but the first, which XLA's analysis counts."""
    again = [(line, times - 1) for line, times in module.runs() if times > 1]
    return math.fsum(
        times * product_flops(module, inner) for line, times in again for inner in (line, *_fused(module, line))
    )


def _fused(module: Module, line: Instruction) -> Iterator[Instruction]:
    return module.within(line) if line.opcode == "fusion" else iter(())


def product_flops(module: Module, line: Instruction) -> float:
    """2 * batch * rows * columns * contracted of a matrix product (a TPU compiler writes a convolution); else 0.

    A kernel's own cost estimate counts, as in XLA's analysis.
    An axis of the window that is in both operands is contracted or counts products of their own; one that is in a
    single operand is the result's: it has the largest of its three lengths either way.
    """
    if line.opcode == "custom-call" and (estimate := _ESTIMATE.search(line.attributes)):
        return float(estimate[1])
    labels = _LABELS.search(line.attributes)
    if line.opcode != "convolution" or labels is None:
        return 0.0
    shapes = [dimensions(module.lines[name].shape) for name in line.operand_names] + [dimensions(line.shape)]
    left, right, result = (dict(zip(label, shape)) for label, shape in zip(labels.groups(), shapes))
    window = [max(left[axis], right[axis], result[axis]) for axis in left if axis.isdigit()]
    return 2.0 * left["b"] * left["f"] * result["f"] * math.prod(window)


def accessed(module: Module, line: Instruction) -> int:
    """The bytes that one instruction reads and writes: its operands and its result.

    Where a fusion reads a slice of an array, or writes one in place, the slice counts.
    """
    if line.opcode in _FREE or line.opcode.endswith("-done") or line.opcode == "async-start":
        return 0
    if line.opcode == "custom-call" and '"AllocateBuffer"' in line.attributes:
        return 0
    if line.opcode == "copy-start":
        # Result, operand and context.
        return sum(sizes(line.shape))
    if line.opcode == "slice-start":
        whole, part, *_ = sizes(line.shape)
        ranges = _RANGE.findall(line.attributes)
        share = math.prod(int(end) - int(start) for start, end in ranges) / max(math.prod(dimensions(line.shape)), 1)
        return round(whole * share) + part
    if line.opcode in ("slice", "dynamic-slice", "gather"):
        return 2 * sum(sizes(line.shape))
    if line.opcode == "dynamic-update-slice":
        return 2 * _held(module, line.operand_names[1])
    if line.opcode != "fusion":
        return sum(sizes(line.shape)) + sum(_held(module, name) for name in line.operand_names)
    lines = _made_of(module, line)
    total = sum(_written(module, lines[-1])) if lines else sum(sizes(line.shape))
    for place, name in enumerate(line.operand_names):
        total += min(_held(module, name), _taken(module, line, place))
    return total


def _held(module: Module, name: str) -> int:
    line = module.lines.get(name)
    return 0 if line is None else sum(sizes(line.shape))


def _made_of(module: Module, fusion: Instruction) -> tuple[Instruction, ...]:
    return module.computations.get(fusion.called[0], ()) if fusion.called else ()


def _taken(module: Module, fusion: Instruction, place: int) -> int:
    """Bytes that a fusion reads of its operand at `place`."""
    lines = _made_of(module, fusion)
    inside = [line for line in lines if line.opcode == "parameter" and line.operands == str(place)]
    return _read(module, lines, inside[0]) if inside else _held(module, fusion.operand_names[place])


def _read(module: Module, lines: tuple[Instruction, ...], parameter: Instruction) -> int:
    """Bytes read of a parameter, directly or through bitcasts and inner fusions."""
    total = 0
    for user in _users(lines, parameter.name):
        first = user.operand_names[:1] == (parameter.name,)
        if user.opcode == "bitcast":
            total += _read(module, lines, user)
        elif user.opcode == "fusion":
            places = [place for place, name in enumerate(user.operand_names) if name == parameter.name]
            total += sum(_taken(module, user, place) for place in places)
        elif user.opcode == "dynamic-slice" and first:
            total += sum(sizes(user.shape))
        elif user.opcode != "dynamic-update-slice" or not first:
            return sum(sizes(parameter.shape))
    return total


def _written(module: Module, root: Instruction) -> Iterator[int]:
    """Bytes that a fusion writes, for each of its results."""
    inside = _made_of(module, root) if root.opcode == "fusion" else ()
    if inside:
        yield from _written(module, inside[-1])
    elif root.opcode == "tuple":
        for name in root.operand_names:
            yield from _written(module, module.lines[name])
    elif root.opcode == "bitcast" and root.operand_names and root.operand_names[0] in module.lines:
        yield from _written(module, module.lines[root.operand_names[0]])
    elif root.opcode == "dynamic-update-slice":
        yield _held(module, root.operand_names[1])
    else:
        yield sum(sizes(root.shape))


def _users(lines: tuple[Instruction, ...], name: str) -> list[Instruction]:
    return [line for line in lines if name in line.operand_names]
