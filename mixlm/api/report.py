"""`report`: the page of a run by its folder, or what a study found, by its folder or its table."""

import os
from pathlib import Path

from mixlm.analysis.cells import FILE
from mixlm.analysis.report import Report
from mixlm.analysis.report import report as written
from mixlm.analysis.run_page.page import RunPage, write_page
from mixlm.errors import UserError, nearest
from mixlm.paths import local
from mixlm.sweeps.folder import RECORDS, STUDY, StudyFolder

_RUN = "recipe.json"


def report(study: str | os.PathLike[str], partial: bool = False, loss: float | None = None) -> Report | RunPage:
    """Writes the page of a run, its report.html, or the report of a study, into the folder `report` beside cells.csv.

    Args:
      study: the folder of a run or a study, or a study's cells.csv, beside which lies its study.json.
      partial: finds the optimum of a grid that is incomplete, too, and says what is missing.
      loss: the loss in the table of FLOPs to reach it; by default the final one of the baseline.

    Returns:
      Of a run its page, with `path` and `state`. Of a study its report: the folder, `findings` with a verdict for each
      claim, `tables` by file name, and its Markdown.

    Raises:
      UserError: for a folder that holds neither, for a table that is not the study's, and for an option of studies
        that is given for a run.

    Example: `report("runs/studies/dual").findings[0].verdict`.
    """
    path = local(study, "The run or study")
    if (path / _RUN).is_file():
        if partial or loss is not None:
            raise UserError(f"{path} is one run: `partial` and `loss` are for the report of a study.")
        return write_page(path)
    return written(_table(path), partial, loss)


def _table(path: Path) -> Path:
    """The cells.csv of a study; of one that has runs it is collected anew."""
    if path.is_dir():
        if (path / STUDY).is_file() and (path / RECORDS).is_dir():
            from mixlm.sweeps.collect import collect

            collect(StudyFolder(path))
        if not (path / FILE).exists():
            raise UserError(f"{path} holds no run and no study: there is no {_RUN} and no {FILE} in it.")
        return path / FILE
    if not path.exists():
        siblings = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"There is no run or study {str(path)!r}.{nearest(str(path), siblings)}")
    return path
