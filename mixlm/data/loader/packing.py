"""Several pairs in one row: which of them share one, and the row's tokens, with padding between the pairs."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int32, Int64

from mixlm.data.loader.permutation import permutation
from mixlm.errors import UserError

OPEN_ROWS = 64  # Ours: rows that wait for a pair which still fits; more fill them little better.
_ORDER_OF_PACKING = 5  # what a random number is for, beside the uses in pairs.py, epochs.py and interleave.py


def packs(
    inputs: Int64[np.ndarray, " D"], targets: Int64[np.ndarray, " D"], lengths: Mapping[str, int]
) -> tuple[Int64[np.ndarray, " D"], Int64[np.ndarray, " bounds"]]:
    """(The pairs' numbers row after row, where each row begins among them): first fit over pairs in a random order.

    The order is always the same, so that the number of rows is a function of the pairs' sizes. Each pair is in one row,
    and between two of a row there is room for a padding token in inputs and in targets. Raises UserError for a pair
    without inputs or targets, which no segment could tell apart.
    """
    for name, sizes in (("inputs", inputs), ("targets", targets)):
        if len(sizes) and sizes.min() == 0:
            raise UserError(f"Pair {int(sizes.argmin())} has no {name}, and packed rows need some: leave PACKED out.")
    room = lengths["inputs"] + 1, lengths["targets"] + 1
    rows: list[list[int]] = []
    left: dict[int, tuple[int, int]] = {}  # of the open rows, the oldest first
    for number in permutation(len(inputs), 0, _ORDER_OF_PACKING).tolist():
        read, said = int(inputs[number]) + 1, int(targets[number]) + 1
        found = next((row for row, (a, b) in left.items() if a >= read and b >= said), None)
        if found is None:
            found = len(rows)
            rows.append([])
            left[found] = room
            if len(left) > OPEN_ROWS:
                del left[next(iter(left))]
        rows[found].append(number)
        left[found] = (left[found][0] - read, left[found][1] - said)
    bounds = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return np.asarray([number for row in rows for number in row], np.int64), bounds


def packed(pairs: Sequence[tuple[np.ndarray, np.ndarray]], lengths: Mapping[str, int]) -> Int32[np.ndarray, " L"]:
    """A row of several pairs: their inputs in order, padding, their targets in order, padding."""
    row = np.zeros(lengths["inputs"] + lengths["targets"], np.int32)
    places = [0, lengths["inputs"]]
    for pair in pairs:
        for side, part in enumerate(pair):
            row[places[side] : places[side] + len(part)] = part
            places[side] += len(part) + 1
    return row
