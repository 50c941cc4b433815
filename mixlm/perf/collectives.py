"""Collectives of a compiled step: kind, bytes, group size, and how often each runs."""

import math
import re
from dataclasses import dataclass

from mixlm.perf.hlo import Instruction, Module, sizes

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")


@dataclass(frozen=True)
class Collective:
    """A collective among `group` chips, run `times` times a step; `bytes` is the size of the whole array on one chip.

    The whole array is an all-gather's result, and the operand of all others.
    """

    kind: str
    bytes: int
    group: int
    times: int = 1

    @property
    def sent(self) -> float:
        """The bytes that each chip must send at least in a step, whatever the algorithm.

        Of n chips with an array of b bytes: all-gather, reduce-scatter and all-to-all (n - 1) / n b, all-reduce twice
        that (Patarasu & Yuan 2009, theorem 1), a permutation or a broadcast b.
        """
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(self.kind, share)
        return factor * self.bytes * self.times


def collectives(module: Module) -> tuple[Collective, ...]:
    """Every collective of a module in the order of the text, without those of a single chip.

    The TPU compiler writes an asynchronous one into each of the fusions that begin, carry and end it: those are one
    where they have the same channel.
    """
    found: dict[str, Collective] = {}
    for instruction, times in module.runs():
        for inner in (instruction, *module.within(instruction)) if instruction.opcode != "while" else ():
            collective = _collective(inner, module.partitions, times, _is_scatter(instruction))
            if collective is not None and collective.group > 1 and collective.bytes > 0:
                channel = _CHANNEL.search(inner.attributes)
                found.setdefault(channel.group(1) if channel else inner.name, collective)
    return tuple(found.values())


def transfers_between_slices(module: Module) -> tuple[int, int]:
    """(How many arrays a chip gives its host for the other slices in a step, their bytes).

    The TPU compiler makes a collective of several slices one inside of each, and a send over the hosts' network.
    """
    sends = [
        (times, sizes(instruction.shape)[0])
        for instruction, times in module.runs()
        if instruction.opcode == "send" and "megascale" in instruction.attributes
    ]
    return sum(times for times, _ in sends), sum(times * size for times, size in sends)


def _is_scatter(instruction: Instruction) -> bool:
    """True for the TPU compiler's reduce-scatter: a fusion of an all-reduce and a slice, told by its name."""
    return instruction.opcode == "fusion" and any("all-reduce-scatter" in name for name in instruction.called)


def _collective(instruction: Instruction, partitions: int, times: int, scatter: bool) -> Collective | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    arrays = sizes(instruction.shape)
    if instruction.opcode == "all-gather-start":
        # Operands, then results.
        arrays = arrays[len(arrays) // 2 :]
    elif instruction.opcode == "collective-permute-start":
        # Operand, result and context.
        arrays = arrays[:1]
    group = _group(instruction, partitions)
    whole = sum(arrays) * (group if kind == "reduce-scatter" else 1)
    return Collective("reduce-scatter" if scatter and kind == "all-reduce" else kind, whole, group, times)


def _group(instruction: Instruction, partitions: int) -> int:
    if instruction.opcode.startswith("collective-permute"):
        return 2
    listed, iota = _LISTED.search(instruction.attributes), _IOTA.search(instruction.attributes)
    if axes := _AXES.search(instruction.attributes):
        lengths = dict(re.findall(r"'(\w+)'=(\d+)", axes.group(1)))
        # A part of an axis is written 'axis':(stride)length.
        along = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes.group(2))
        return math.prod(int(part or lengths[axis]) for axis, part in along)
    if iota:
        return int(iota.group(1))
    return len(listed.group(1).split(",")) if listed else partitions
