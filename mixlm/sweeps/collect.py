"""The tidy table of a study: one row for each cell and evaluation point, read from the cells' runs."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mixlm.evaluation.tables import write
from mixlm.reports.metrics import VALIDATION, read
from mixlm.reports.table import Table
from mixlm.sweeps.folder import StudyFolder
from mixlm.sweeps.states import DONE, state_in

_HEAD = ("cell", "arm")
_POINT = ("seed", "step", "last", "best", "tokens", "epochs", "unique_tokens", "flops")
_ORIGIN = ("seconds", "parameters", "version", "commit", "device", "status", "error")
# Figures of a line that have a column of another name, or none.
_OTHERS = ("step", "stage", "tokens", "epoch", "set", "flops", "mfu", "tokens_per_second")


def collect(folder: StudyFolder) -> Table:
    """Reads the runs of the cells that study.json names, and writes cells.csv, and cells.parquet where pandas can.

    A cell without a validated step has one row, with its status alone. Absent values are empty.
    """
    table = tidy(folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, table.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    write(folder.table, text.getvalue())
    _write_parquet(folder, table)
    return table


def tidy(folder: StudyFolder) -> Table:
    """The rows of all cells in the order of study.json; nothing is written."""
    study = folder.content()
    axes = [f"axis/{name}" for name in study["axes"]]
    rows = [row for cell in study["cells"] for row in _rows(folder, cell, study["metrics"])]
    found = dict.fromkeys(name for row in rows for name in row)
    networks = sorted(name for name in found if name.startswith("flops/"))
    first = [*_HEAD, *axes, *_POINT, *networks, *_ORIGIN]
    metrics = sorted((name for name in found if name not in first), key=lambda name: (name.startswith("eval"), name))
    return Table(rows, [*first, *metrics])


def _rows(folder: StudyFolder, cell: Mapping[str, Any], metrics: Mapping[str, str]) -> list[dict[str, Any]]:
    name, status = cell["cell"], state_in(folder, cell["cell"])
    record = folder.record(name)
    head = {"cell": name, "arm": cell["arm"], **{f"axis/{axis}": value for axis, value in cell["axes"].items()}}
    head |= {"seed": cell["seed"]}
    tail = {key: record.get(key) for key in ("parameters", "version", "commit", "device", "error")} | {"status": status}
    lines = list(_points(read(folder.run(name).path)))
    if not lines:
        return [head | tail]
    rows = [head | line | tail for line in lines]
    if status == DONE:
        rows[-1]["last"] = True
        rows[-1] |= {
            key: value for each in record.get("evaluations", {}).values() for key, value in each["figures"].items()
        }
    best = _best(rows, metrics)
    if best is not None:
        rows[best]["best"] = True
    return rows


def _points(lines: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """The lines of metrics.jsonl that were validated, each with the seconds of stepping until then."""
    seconds, before = 0.0, 0
    for line in lines:
        tokens, rate = line.get("tokens", 0), line.get("tokens_per_second", 0)
        if rate:
            seconds += (tokens - before) / rate
        before = tokens
        if not any(name.startswith(VALIDATION) for name in line):
            continue
        epochs = line.get("epoch")
        point = {name: line.get(name) for name in ("step", "tokens", "flops")}
        point |= {"last": False, "best": False, "epochs": epochs, "seconds": round(seconds, 3)}
        if epochs:
            point["unique_tokens"] = round(tokens / epochs)
        yield point | _flops(line) | {name: value for name, value in line.items() if _is_metric(name)}


def _is_metric(name: str) -> bool:
    return name not in _OTHERS and not name.startswith("spent/")


def _flops(line: Mapping[str, Any]) -> dict[str, float]:
    """The FLOPs of each network until a line, over all stages; its head is its own part."""
    found: dict[str, float] = {}
    for name, value in line.items():
        stage, parts, part = name.rpartition("/flops/")
        if parts and stage.startswith("spent/"):
            found[f"flops/{part}"] = found.get(f"flops/{part}", 0.0) + value
    return found


def _best(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]) -> int | None:
    """The row with the best value of the first metric that decides."""
    for metric, sense in metrics.items():
        known = [(row[metric], number) for number, row in enumerate(rows) if isinstance(row.get(metric), int | float)]
        known = [(value, number) for value, number in known if value == value]
        if not known:
            return None
        return min(known, key=lambda each: (each[0] if sense == "min" else -each[0], each[1]))[1]
    return None


def _write_parquet(folder: StudyFolder, table: Table) -> None:
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError:
        return
    content = io.BytesIO()
    pandas.DataFrame(table.rows, columns=table.columns).to_parquet(content, index=False)
    write(folder.table.with_suffix(".parquet"), content.getvalue())
