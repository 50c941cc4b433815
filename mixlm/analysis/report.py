"""A study's report: read the table, judge the claims, and write Markdown, HTML, figures and tables."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlm.analysis import sections, sections_of_training
from mixlm.analysis.cell_curves import cell_curves
from mixlm.analysis.cells import FILE, Cells, read_cells
from mixlm.analysis.claim_rules import RULES
from mixlm.analysis.claims import Finding, judge
from mixlm.analysis.document import Document, Picture, write
from mixlm.errors import UserError
from mixlm.paths import make_within
from mixlm.reports.table import Table

FOLDER, PARQUET = "report", "cells.parquet"


@dataclass(frozen=True)
class Report:
    """A report that was written: its folder, the claims' findings, its tables by file name, and its Markdown."""

    folder: Path
    findings: list[Finding]
    tables: dict[str, Table]
    markdown: str

    def __str__(self) -> str:
        return self.markdown

    def __repr__(self) -> str:
        return f"Report({str(self.folder)!r})"

    def _repr_markdown_(self) -> str:
        return self.markdown


def report(table: Path, partial: bool = False, loss: float | None = None) -> Report:
    """Reads a study's cells.csv and writes its report into the folder `report` beside it, and cells.parquet.

    Args:
      table: the cells.csv, with study.json beside it.
      partial: finds an optimum where cells are missing, too.
      loss: the loss in the table of FLOPs; by default the final one of the baseline.

    Raises:
      UserError: for a table of another study, one that lacks a column, or one without rows; nothing is written.
    """
    try:
        import pandas  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError(f"A report needs {error.name}: pip install 'mixlm[report]'.") from None
    from threadpoolctl import threadpool_limits

    cells = read_cells(table)
    # Sums in another order are other bytes, and these matrices are too small for threads.
    with threadpool_limits(1):
        document, findings = compose(cells, partial, loss)
    folder = make_within(table.parent, FOLDER)
    markdown = document.markdown()
    write(folder / "report.md", markdown.encode())
    write(folder / "report.html", document.html().encode())
    for block in document.blocks:
        if isinstance(block, Picture):
            write(folder / block.file, block.content)
    for name, each in document.tables.items():
        each.to_csv(folder / name)
    write(table.with_name(PARQUET), _parquet(cells.frame))
    return Report(folder, findings, document.tables, markdown)


def compose(cells: Cells, partial: bool = False, loss: float | None = None) -> tuple[Document, list[Finding]]:
    """(the report's blocks and tables, the findings of the claims); nothing is written."""
    if not cells.by_cell:
        raise UserError(f"{FILE} of {cells.study.name} has no cell that is done, so there is nothing to report.")
    metrics = list(cells.study.metrics)
    for name in metrics:
        cells.values(name)  # a metric that no column has is said before anything is computed
    cells.study.selector("The baseline", cells.study.baseline)
    document = Document()
    findings = judge(cells, RULES)
    sections.asked(document, cells)
    sections.verdicts(document, findings)
    sections.remarks(document, cells)
    for name in metrics:
        sections.metric(document, cells, name)
        if any(cells.values(name).values()):
            sections_of_training.optimum(document, cells, name, partial)
    sections_of_training.training(document, cells, metrics)
    sections_of_training.reaching(document, cells, metrics, loss)
    cell_curves(document, cells, metrics)
    sections_of_training.methods(document, cells)
    return document, findings


def _parquet(frame: Any) -> bytes:
    content = io.BytesIO()
    # A column of values of several kinds is text, which Parquet has one kind for.
    mixed = {name: frame[name].astype(str) for name in frame.columns if frame[name].dtype == object}
    frame.assign(**mixed).to_parquet(content, index=False)
    return content.getvalue()
