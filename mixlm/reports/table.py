"""Tables of figures as plain values, which print, show as HTML in a notebook and become a pandas DataFrame."""

import csv
import html
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixlm.errors import UserError
from mixlm.files import replacing

# Ours: as many rows as a screen holds; of a longer table the first and the last are shown.
SHOWN = 20
LARGE = 1e6  # Ours: figures from here on have an exponent, so that none is longer than 12 characters.


class Table(Sequence[dict[str, Any]]):
    """Rows of named values: `table[0]` is a row as a dict, `table["loss"]` a column as a list, None where it has none.

    Args:
      rows: one mapping a row; rows may lack any column.
      columns: the names of the columns in order; by default those of all rows, in order of their first appearance.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
        self.rows = [dict(row) for row in rows]
        self.columns = list(dict.fromkeys(name for row in self.rows for name in row) if columns is None else columns)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return Table(self.rows[key], self.columns)
        if not isinstance(key, str):
            return self.rows[key]
        if key not in self.columns:
            raise KeyError(f"There is no column {key!r}, only {', '.join(self.columns)}.")
        return [row.get(key) for row in self.rows]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def select(self, *columns: str) -> "Table":
        """The same rows with these columns alone; raises KeyError for one that there is not."""
        for name in columns:
            _ = self[name]
        return Table([{name: row[name] for name in columns if name in row} for row in self.rows], columns)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`; raises ImportError where pandas is not installed."""
        import pandas

        return pandas.DataFrame(self.rows, columns=self.columns)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes a CSV file with a header, whole or not at all; an absent value is an empty cell.

        Raises UserError where `path` is a link or no regular file.
        """
        place = Path(path)
        if place.is_symlink() or (place.exists() and not place.is_file()):
            raise UserError(f"{place} is a link or no regular file, and a table is written to a file: name that.")
        with replacing(place) as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def __str__(self) -> str:
        lines = [self.columns, *self._cells()]
        widths = [max(len(line[index]) for line in lines) for index in range(len(self.columns))]
        return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths)).rstrip() for line in lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in self._cells()
        )
        count = f"<p>{len(self.rows):,} rows</p>" if len(self.rows) > SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{count}"

    def _cells(self) -> list[list[str]]:
        half = SHOWN // 2
        rows = self.rows if len(self.rows) <= SHOWN else [*self.rows[:half], None, *self.rows[-half:]]
        return [["..." if row is None else cell(row.get(name)) for name in self.columns] for row in rows]


def cell(value: Any) -> str:
    """A value as a table shows it: four decimals, thousands separated, `-` for one that is absent or NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return fixed(value, 4) if abs(value) >= 1e-3 or value == 0 else f"{value:.4g}"


def fixed(value: float, decimals: int) -> str:
    """A figure with so many decimals, and with an exponent where it is large: a run that diverges has figures too."""
    return f"{value:,.{decimals}f}" if abs(value) < LARGE else f"{value:.4g}"
