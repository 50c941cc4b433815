"""The record of a run, metrics.jsonl: whole lines are kept, damaged ones set aside, and lost ones restored."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mixlm.errors import UserError
from mixlm.files import decode, is_number, open_append, open_regular, parse_json, read_lines, replacing

FILE = "metrics.jsonl"
LOGGED = "lines"  # in a checkpoint's note: how many lines there were
DAMAGED = "metrics.damaged"  # beside it: the lines that were set aside
SHOWN = 5  # Ours: stretches of steps, or lines, that a sentence names.


class Line(NamedTuple):
    """A whole line: its step, what it says, and its bytes with their end."""

    step: int
    record: dict[str, Any]
    content: bytes


class Resumed(NamedTuple):
    """The result of `resume`: sentences for the user, and the steps that have lines now."""

    said: list[str]
    steps: Set[int]


def parse_line(content: bytes) -> Line | None:
    """Reads a line; None for a damaged one, which is no object in UTF-8 with a whole number `step` and a `stage`."""
    try:
        record = parse_json(decode(content, "It"), "It", dict)
    except UserError:
        return None
    step = record.get("step")
    if type(step) is not int or not 0 <= step < 2**63 or not isinstance(record.get("stage"), str):
        return None
    if any(type(value) is int and not is_number(value) for value in record.values()):
        return None
    # A line that lacks only its end is whole: no part of an object is JSON.
    return Line(step, record, content.rstrip(b"\r\n") + b"\n")


def lines(folder: Path) -> Iterator[tuple[int, bytes, Line | None]]:
    """The lines of a run's record that are not blank: number, bytes, and what it says (None: damaged)."""
    path = folder / FILE
    if not os.path.lexists(path):
        return
    with open_regular(path) as file:
        for number, content in enumerate(read_lines(file, str(path)), 1):
            if content.strip():
                yield number, content, parse_line(content)


def whole_lines(folder: Path) -> Iterator[Line]:
    """The whole lines of a run's record, in their order."""
    return (line for _, _, line in lines(folder) if line is not None)


def resume(
    folder: Path,
    done: int,
    copies: Iterable[bytes] = (),
    logged: int | None = None,
    period: int | None = None,
    begun: int = 0,
) -> "Resumed":
    """Makes the record what a run that goes on from `done` steps had written, and says what it was not.

    Whole lines of steps up to `done` are kept, and those of later steps dropped, since they will be written again.
    Damaged lines go to DAMAGED. Lines that `copies` alone hold are restored; copies are read as long as lines are
    missing. `logged` is how many lines there were, None where nobody knows. A run that began with `begun` steps done
    logs step 1 and every `period`-th one; with None nothing is expected.
    """
    kept, damaged, changed = [], {}, False
    for number, content, line in lines(folder):
        if line is None:
            damaged[number] = content
        elif line.step <= done:
            kept.append(line)
        changed |= line is None or line.step > done or line.content != content
    steps = {line.step for line in kept}
    restored = _missing_in(steps, copies, done, logged)
    said = _set_aside(folder, damaged)
    if restored:
        stretches = _stretches(steps, restored.keys())
        said.append(f"{FILE} had no lines of {_shown(stretches)}; a checkpoint's copy of them is restored.")
        kept = sorted([*kept, *restored.values()], key=lambda line: line.step)
        steps |= restored.keys()
    if period is not None and (logged is None or len(steps) < logged):
        if gaps := _gaps(steps, begun, done, period):
            said.append(f"{FILE} has no lines of {_shown(gaps)}, and no checkpoint holds them.")
        elif logged is not None:
            said.append(f"{FILE} has {len(steps):,} of the {logged:,} lines that were written, and no checkpoint more.")
    if restored or changed:
        with replacing(folder / FILE, "wb") as file:
            file.writelines(line.content for line in kept)
    return Resumed(said, steps)


def _missing_in(steps: Set[int], copies: Iterable[bytes], done: int, logged: int | None) -> dict[int, Line]:
    """The lines up to `done` of other steps than `steps`, by step, until there are `logged` lines."""
    found: dict[int, Line] = {}
    if logged is not None and len(steps) >= logged:
        return found
    for copy in copies:
        for line in filter(None, map(parse_line, copy.splitlines())):
            if line.step <= done and line.step not in steps:
                found.setdefault(line.step, line)
        if logged is not None and len(steps) + len(found) >= logged:
            break
    return found


def _set_aside(folder: Path, damaged: Mapping[int, bytes]) -> list[str]:
    """Adds lines to DAMAGED, which is on the disk before the record is changed; returns what to say of it."""
    if not damaged:
        return []
    with open_append(folder / DAMAGED) as file:
        file.buffer.writelines(content.rstrip(b"\r\n") + b"\n" for content in damaged.values())
        file.flush()
        os.fsync(file.fileno())
    which, many = _listed(list(map(str, damaged))), len(damaged) > 1
    return [
        f"{'Lines' if many else 'Line'} {which} of {FILE} {'are' if many else 'is'} damaged, and set aside in "
        f"{folder / DAMAGED}."
    ]


def _gaps(steps: Iterable[int], begun: int, done: int, period: int) -> list[tuple[int, int]]:
    """The stretches of steps from `begun` to `done` that should have lines and have none, as (first, last)."""
    known = sorted({begun, *steps})
    # Lines that are further apart, since LOG_PERIOD was another one, are no gap.
    spaces = Counter(after - before for before, after in pairwise(step for step in known if step > 1))
    period = max([period, *(space for space, _ in spaces.most_common(1))])
    return [
        (before + 1, after - 1)
        for before, after in pairwise([*known, done + 1])
        if (after - 1) // period > before // period or before == 0 < after - 1
    ]


def _stretches(kept: Set[int], restored: Set[int]) -> list[tuple[int, int]]:
    """The restored steps as (first, last) of those that no kept one lies between."""
    found = groupby(sorted(kept | restored), key=lambda step: step in restored)
    groups = [list(members) for of_restored, members in found if of_restored]
    return [(group[0], group[-1]) for group in groups]


def _shown(stretches: Sequence[tuple[int, int]]) -> str:
    parts = [f"{first} to {last}" if last > first else str(first) for first, last in stretches]
    one = len(stretches) == 1 and stretches[0][0] == stretches[0][1]
    return f"{'step' if one else 'steps'} {_listed(parts)}"


def _listed(parts: Sequence[str]) -> str:
    if len(parts) > SHOWN:
        return f"{', '.join(parts[:SHOWN])} and {len(parts) - SHOWN} more"
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
