"""Reading a compiled program: XLA's text of an optimised module, its instructions, and how often each of them runs."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SIZED = re.compile(r"\b(pred|token|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_PARTITIONS = re.compile(r"\bnum_partitions=(\d+)")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation, `name = shape opcode(operands), attributes`, each part as it is written."""

    name: str
    shape: str
    opcode: str
    operands: str
    attributes: str

    @property
    def operand_names(self) -> tuple[str, ...]:
        """The instructions that it reads."""
        return tuple(re.findall(r"%([\w.\-]+)", self.operands))

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that it runs, those of a loop's condition left out."""
        branches = _BRANCHES.search(self.attributes)
        names = branches.group(1).replace("%", "").replace(" ", "").split(",") if branches else []
        return (*_CALLED.findall(self.attributes), *names)


@dataclass(frozen=True)
class Module:
    """The computations of a module by name, the one where it begins, and how many devices it is split over."""

    computations: dict[str, tuple[Instruction, ...]]
    entry: str
    partitions: int

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
        """How often a loop's body runs: what its counter, which begins at 0, is compared with; 1 where it has none."""
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
        """What a fusion is made of, fusions in it included."""
        for name in instruction.called:
            for inner in self.computations.get(name, ()):
                yield inner
                yield from self.within(inner)


def _read(lines: Sequence[Instruction]) -> set[str]:
    return {name for line in lines for name in line.operand_names}


def module(text: str) -> Module:
    """Reads XLA's text of a module (`compiled.as_text()`)."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name, lines = "", None, []
    partitions = _PARTITIONS.search(text.partition("\n")[0])
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if name is None and line.rstrip().endswith("{") and ("->" in line or line.startswith("ENTRY")):
            name, lines = re.split(r"[ (]", line.removeprefix("ENTRY ").lstrip("%"), maxsplit=1)[0], []
            entry = name if line.startswith("ENTRY") else entry
        elif name is not None and line.startswith("}"):
            computations[name], name = tuple(lines), None
        elif name is not None and " = " in line:
            lines.append(_instruction(line))
    return Module(computations, entry, int(partitions.group(1)) if partitions else 1)


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end].strip(), rest[end:].strip()
    opening = rest.index("(")
    end = _closing(rest, opening)
    return Instruction(name.lstrip("%"), shape, rest[:opening], rest[opening + 1 : end - 1], rest[end:].lstrip(", "))


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` is behind us."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return len(text)


def sizes(shape: str) -> list[int]:
    """The bytes of each array in a shape, without the padding of its tiles."""
    found = []
    for kind, bits, dimensions in _SIZED.findall(shape):
        width = {"pred": 8, "token": 0}.get(kind, int(bits or 0))
        count = 1
        for dimension in filter(None, dimensions.split(",")):
            count *= int(dimension)
        found.append((width * count + 7) // 8)
    return found
