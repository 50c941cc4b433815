"""`report`: what a study found, by its folder or its table."""

import os
from pathlib import Path

from mixlm.analysis.cells import FILE
from mixlm.analysis.report import Report
from mixlm.analysis.report import report as written
from mixlm.errors import UserError, nearest
from mixlm.paths import local
from mixlm.sweeps.folder import RECORDS, STUDY, StudyFolder

_RUN = "recipe.json"


def report(study: str | os.PathLike[str], partial: bool = False, loss: float | None = None) -> Report:
    """Writes the report of a study into the folder `report` beside its cells.csv.

    Args:
      study: the study's folder, or its cells.csv, beside which lies its study.json.
      partial: finds the optimum of a grid that is incomplete, too, and says what is missing.
      loss: the loss in the table of FLOPs to reach it; by default the final one of the baseline.

    Returns:
      The report: its folder, `findings` with a verdict for each claim, `tables` by file name, and its Markdown.

    Raises:
      UserError: for a folder that holds no study, and for a table that is not the study's.

    Example: `report("runs/studies/dual").findings[0].verdict`.
    """
    return written(_table(local(study, "The study")), partial, loss)


def _table(path: Path) -> Path:
    """The cells.csv of a study; of one that has runs it is collected anew."""
    if path.is_dir():
        if (path / _RUN).is_file():
            raise UserError(
                f"{path} is one run, whose picture is its curves.png, and a report is of a study's cells: give the "
                "folder of a study."
            )
        if (path / STUDY).is_file() and (path / RECORDS).is_dir():
            from mixlm.sweeps.collect import collect

            collect(StudyFolder(path))
        if not (path / FILE).exists():
            raise UserError(f"{path} holds no study: there is no {FILE} in it.")
        return path / FILE
    if not path.exists():
        siblings = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"There is no study {str(path)!r}.{nearest(str(path), siblings)}")
    return path
