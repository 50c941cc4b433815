"""Parses XLA's text of an optimised module: instructions, and how often each of them runs."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

_SIZED = re.compile(r"\b(pred|token|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) .*->.*\{\s*$")
_LINE = re.compile(r"\s+(ROOT )?%[\w.\-]+ = \S")
_PARTITIONS = re.compile(r"\bnum_partitions=(\d+)")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation, `name = shape opcode(operands), attributes`, each part as it is written."""

    name: str
    shape: str
    opcode: str
    operands: str
    attributes: str

    @cached_property
    def operand_names(self) -> tuple[str, ...]:
        """Names of the instructions that it reads."""
        return tuple(re.findall(r"%([\w.\-]+)", self.operands))

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs, without loop conditions."""
        branches = _BRANCHES.search(self.attributes)
        names = branches.group(1).replace("%", "").replace(" ", "").split(",") if branches else []
        return (*_CALLED.findall(self.attributes), *names)


@dataclass(frozen=True)
class Module:
    """The computations of a module by name, the one where it begins, and how many devices it is split over."""

    computations: dict[str, tuple[Instruction, ...]]
    entry: str
    partitions: int

    @cached_property
    def lines(self) -> dict[str, Instruction]:
        """Every instruction by its name, which no other has."""
        return {line.name: line for lines in self.computations.values() for line in lines}

    def runs(self, computation: str | None = None, times: int = 1) -> Iterator[tuple[Instruction, int]]:
        """Every instruction that is scheduled on its own, with how often it runs: loops times their length.

        A fusion is one instruction, not those that were fused. Of a conditional all branches are given.
        """
        for instruction in self.computations.get(self.entry if computation is None else computation, ()):
            yield instruction, times
            if instruction.opcode in ("while", "call", "conditional", "async-start"):
                for name in instruction.called:
                    yield from self.runs(name, times * self.trips(instruction))

    def trips(self, instruction: Instruction) -> int:
        """A loop's trip count: the limit that its counter, which starts at 0, is compared with; 1 for anything else."""
        if found := _TRIPS.search(instruction.attributes):
            return int(found.group(1))
        condition = _CONDITION.search(instruction.attributes)
        lines = self.computations.get(condition.group(1), ()) if condition else ()
        below = [line for line in lines if line.opcode == "compare" and "direction=LT" in line.attributes]
        limits = [
            int(line.operands)
            for line in lines
            if line.opcode == "constant" and line.name in _read(below or lines[-1:])
        ]
        return limits[0] if len(limits) == 1 else 1

    def within(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instructions in a fusion, those of inner fusions included."""
        for name in instruction.called:
            for inner in self.computations.get(name, ()):
                yield inner
                yield from self.within(inner)


def _read(lines: Sequence[Instruction]) -> set[str]:
    return {name for line in lines for name in line.operand_names}


def module(text: str) -> Module:
    """Reads XLA's text of a module (`compiled.as_text()`)."""
    computations: dict[str, list[Instruction]] = {}
    entry = name = ""
    partitions = _PARTITIONS.search(text.partition("\n")[0])
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if header := _HEADER.match(line):
            name = header.group(2)
            computations[name] = []
            entry = name if header.group(1) else entry
        elif _LINE.match(line):
            # Only a header ends a computation: a kernel's attributes can have lines, and brackets, of their own.
            computations[name].append(_instruction(line))
    made = {name: tuple(lines) for name, lines in computations.items()}
    return Module(made, entry, int(partitions.group(1)) if partitions else 1)


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end].strip(), rest[end:].strip()
    opening = rest.index("(")
    end = _closing(rest, opening)
    return Instruction(name.lstrip("%"), shape, rest[:opening], rest[opening + 1 : end - 1], rest[end:].lstrip(", "))


def _closing(text: str, start: int) -> int:
    """The index behind the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return len(text)


def sizes(shape: str) -> list[int]:
    """The bytes of each array in a shape, without the padding of its tiles."""
    found = []
    for kind, bits, lengths in _SIZED.findall(shape):
        width = {"pred": 8, "token": 0}.get(kind, int(bits or 0))
        found.append((width * math.prod(_lengths(lengths)) + 7) // 8)
    return found


def dimensions(shape: str) -> tuple[int, ...]:
    """The lengths of the first array in a shape."""
    found = _SIZED.search(shape)
    return _lengths(found.group(3)) if found else ()


def _lengths(text: str) -> tuple[int, ...]:
    return tuple(int(length) for length in text.split(",") if length)
