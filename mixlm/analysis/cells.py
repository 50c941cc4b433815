"""cells.csv: the tidy table of a study, one row for each cell and evaluation point, and what is read from it."""

import csv
import io
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mixlm import files
from mixlm.analysis.study import AXIS, Place, Study, bare, key, place_of, read_study
from mixlm.analysis.study import FILE as STUDY_FILE
from mixlm.errors import UserError, nearest

FILE = "cells.csv"
NEEDED = ("cell", "seed", "step", "last", "status")
DONE = "done"
_TEXTS = ("cell", "arm", "last", "best", "status", "error", "version", "commit", "device")
# Ours: more than ten thousand cells of a thousand evaluation points each.
MOST_BYTES = 2**30


@dataclass(frozen=True)
class Cells:
    """The rows of a study's cells.csv, sorted by place, seed and step, and the study they belong to."""

    study: Study
    frame: Any
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def by_cell(self) -> dict[str, Any]:
        """The rows of each cell that is done, by its name."""
        done = self.frame[self.frame["status"] == DONE]
        return {str(name): rows for name, rows in done.groupby("cell", sort=False)}

    @cached_property
    def failed(self) -> list[tuple[str, str, str]]:
        """Cells that are not done: (name, status, sentence)."""
        found, seen = [], set()
        for _, row in self.frame[self.frame["status"] != DONE].iterrows():
            if row["cell"] not in seen:
                seen.add(row["cell"])
                sentence = row.get("error")
                found.append((row["cell"], row["status"], sentence if isinstance(sentence, str) else ""))
        known = set(self.frame["cell"])
        return found + [(each.cell, "missing", "") for each in self.study.cells if each.cell not in known]

    @property
    def metrics(self) -> list[str]:
        """The columns that are figures of metrics."""
        return [name for name in self.frame.columns if "/" in name and not name.startswith((AXIS, "flops/"))]

    def values(self, metric: str) -> dict[Place, dict[int, float]]:
        """The metric at the end of each done cell, by place and seed; "best:NAME" is read at the best checkpoint.

        A figure of an evaluation has a column of its own for the best checkpoint, `evaluation@best/...`. Values that
        are not finite are left out. Raises UserError for a metric that no column has.
        """
        name, flag = bare(metric), "last"
        if metric.startswith("best:"):
            if name.startswith("evaluation/"):
                name = name.replace("evaluation/", "evaluation@best/", 1)
            else:
                flag = "best"
        self.check(name)
        found: dict[Place, dict[int, float]] = {place: {} for place in self.study.places}
        for expected in self.study.cells:
            rows = self.by_cell.get(expected.cell)
            if rows is None:
                continue
            chosen = rows.loc[rows[flag], name].dropna()
            if len(chosen) and math.isfinite(chosen.iloc[-1]):
                found[expected.place][expected.seed] = float(chosen.iloc[-1])
        return found

    def curves(self, metric: str, against: str) -> dict[Place, dict[int, tuple[np.ndarray, np.ndarray]]]:
        """(x, y) of a metric at every evaluation point of each done cell, by place and seed."""
        self.check(metric)
        self.check(against)
        found: dict[Place, dict[int, tuple[np.ndarray, np.ndarray]]] = {place: {} for place in self.study.places}
        for expected in self.study.cells:
            rows = self.by_cell.get(expected.cell)
            if rows is None:
                continue
            pairs = rows[[against, metric]].dropna().to_numpy(np.float64)
            pairs = pairs[np.isfinite(pairs).all(axis=1)]
            if len(pairs):
                found[expected.place][expected.seed] = (pairs[:, 0], pairs[:, 1])
        return found

    def check(self, column: str) -> None:
        """Raises UserError for a column that the table lacks."""
        if column not in self.frame.columns:
            raise UserError(
                f"{FILE} of {self.study.name} has no column {column!r}.{nearest(column, self.frame.columns)}"
                f" Its metrics are {', '.join(self.metrics) or 'none'}."
            )

    def incomplete(self, metric: str) -> list[str]:
        """The expected cells without a value of the metric."""
        values = self.values(metric)
        return [each.cell for each in self.study.cells if each.seed not in values[each.place]]

    @cached_property
    def versions(self) -> dict[str, list[str]]:
        """Done cells by version and commit of the code, the commonest first."""
        found: dict[str, list[str]] = {}
        for name, rows in self.by_cell.items():
            texts = [str(rows.iloc[-1].get(each, "")) for each in ("version", "commit")]
            found.setdefault(" ".join(text for text in texts if text not in ("", "nan", "None")), []).append(name)
        return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))

    @property
    def strangers(self) -> set[str]:
        """Cells of another version than most."""
        return {name for names in list(self.versions.values())[1:] for name in names}

    def names(self, place: Place) -> list[str]:
        """The cells at a place, in the order of their seeds."""
        return [cell.cell for cell in self.study.cells if cell.place == place]


def read_cells(path: Path) -> Cells:
    """Reads cells.csv and the study.json beside it; UserError, one sentence, for what belongs to no study."""
    import pandas

    beside = path.with_name(STUDY_FILE)
    if not path.exists():
        raise UserError(f"There is no {path}, so there is nothing to report.")
    if not beside.exists():
        raise UserError(f"{path} has no {STUDY_FILE} beside it, which says what its study asked for: copy both.")
    study = read_study(beside)
    columns = _columns(path)
    frame = pandas.DataFrame({name: _typed(name, values) for name, values in columns.items()})
    _check_columns(path, study, frame)
    if frame.empty:
        raise UserError(f"{path} has no rows, so there is nothing to report: run `mixlm sweep` first.")
    if not study.metrics:
        # A sweep without a study's file names none: every validation loss decides.
        losses = [name for name in frame.columns if name.startswith("validation/") and name.count("/") == 1]
        study = replace(study, metrics=dict.fromkeys(losses, "min"))
    return Cells(study, _sorted(path, study, frame))


def _columns(path: Path) -> dict[str, list[str]]:
    """The texts of a CSV file by column; UserError names the line that has more or fewer than the header."""
    header, *lines = [*csv.reader(io.StringIO(files.read_text(path, MOST_BYTES)))] or [[]]
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise UserError(f"{path} has {len(line)} columns in row {number}, and its header {len(header)}.")
    return {name: [line[index] for line in lines] for index, name in enumerate(header)}


def _typed(name: str, texts: list[str]) -> list[Any]:
    """The values of a column: numbers where all are, exactly as they were written; an absent one is NaN, or ""."""
    if name in _TEXTS:
        return texts
    for kind in (int, float):
        try:
            return [kind(text) if text or kind is int else math.nan for text in texts]
        except ValueError:
            continue
    return [text if text else math.nan for text in texts]


def _check_columns(path: Path, study: Study, frame: Any) -> None:
    has = [str(name) for name in frame.columns]
    for name in (*NEEDED, *(AXIS + axis for axis in study.axes)):
        if name not in has:
            raise UserError(f"{path} lacks the column {name!r}; it has {', '.join(has)}.")
    others = [name for name in has if name.startswith(AXIS) and name.removeprefix(AXIS) not in study.axes]
    if others:
        raise UserError(
            f"{path} is of another study than the {STUDY_FILE} beside it: it has {others[0]!r}, and the axes of "
            f"{study.name} are {', '.join(study.axes) or 'none'}."
        )


def _sorted(path: Path, study: Study, frame: Any) -> Any:
    """The rows in the order of study.json, whatever order they were written in."""
    expected = {cell.cell: cell for cell in study.cells}
    strange = [name for name in dict.fromkeys(frame["cell"]) if name not in expected]
    if strange:
        raise UserError(
            f"{path} is of another study than the {STUDY_FILE} beside it: {study.name} expects no cell "
            f"{strange[0]!r}.{nearest(str(strange[0]), expected)}"
        )
    for name, rows in frame.groupby("cell", sort=False):
        place = _place(rows.iloc[0], study)
        if place != expected[name].place or int(rows.iloc[0]["seed"]) != expected[name].seed:
            raise UserError(
                f"{path} gives cell {name!r} {place.label} and seed {rows.iloc[0]['seed']}, and {STUDY_FILE} "
                f"{expected[name].place.label} and seed {expected[name].seed}."
            )
    order = {cell.cell: number for number, cell in enumerate(study.cells)}
    frame = frame.assign(_order=frame["cell"].map(order)).sort_values(["_order", "step"], kind="stable")
    for flag in ("last", "best"):
        frame[flag] = (
            frame[flag].map(lambda value: str(value).lower() in ("true", "1", "1.0")) if flag in frame else False
        )
    return frame.drop(columns="_order").reset_index(drop=True)


def _place(row: Any, study: Study) -> Place:
    """The place of a row; an axis that is empty is none of this cell's."""
    known = {axis: {key(value): value for value in values} for axis, values in study.axes.items()}
    values: dict[str, Any] = {}
    for axis in study.axes:
        value = row[AXIS + axis]
        if isinstance(value, float) and math.isnan(value):
            if None in study.axes[axis]:
                values[axis] = None  # an absent value, as CSV spells it
        else:
            values[axis] = known[axis].get(key(value.item() if hasattr(value, "item") else value), value)
    arm = row.get("arm")
    return place_of(arm if isinstance(arm, str) else "", values, study.axes)
