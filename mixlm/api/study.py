"""Studies as functions: gin files in, a study that can be trained, watched and read as one table."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixlm.analysis.cells import FILE, read_cells
from mixlm.analysis.results import Results
from mixlm.api.run import Run
from mixlm.errors import UserError, nearest
from mixlm.gin_config.flags import Flags
from mixlm.gin_config.folder import studies_folder
from mixlm.paths import local
from mixlm.reports.table import Table
from mixlm.sweeps import collect, run, status
from mixlm.sweeps.folder import StudyFolder
from mixlm.sweeps.states import state_in
from mixlm.sweeps.sweep import Sweep, read_sweep

__all__ = ["Results", "StudyRuns", "load_study", "results", "sweep"]


class StudyRuns:
    """A study by its folder, whether its cells are trained or not; it prints as `mixlm sweep --status` does.

    Args:
      folder: such as `runs/studies/dual`.

    Raises:
      UserError: where the folder holds no study.

    Example: `StudyRuns("runs/studies/dual").table.to_pandas()`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = StudyFolder(folder)
        self._folder.content()

    @property
    def folder(self) -> Path:
        """The study's folder: study.json, cells.csv, and a run for each cell."""
        return self._folder.path

    @property
    def states(self) -> dict[str, str]:
        """The state of each cell: "done", "running", "failed" or "missing"."""
        return {each["cell"]: state_in(self._folder, each["cell"]) for each in self._folder.content()["cells"]}

    @property
    def table(self) -> Table:
        """A row for each cell and validated step, as cells.csv has them."""
        return collect.tidy(self._folder)

    def __getitem__(self, cell: str) -> Run:
        """The run of a cell."""
        return Run(self._folder.run(cell).path)

    def __repr__(self) -> str:
        return "\n".join(status.status_lines(self._folder))


def load_study(
    *files: str | os.PathLike[str],
    axes: Mapping[str, Sequence[Any]] | None = None,
    seeds: int | Sequence[int] | None = None,
    text: str | os.PathLike[str] | None = None,
    **macros: Any,
) -> Sweep:
    """Reads a study, or a recipe with the axes of one, and checks that every cell can be built.

    Args:
      *files: names of gin files, as in `load_recipe`.
      axes: values of further axes, by macro: `{"GAMMA": (0, 0.5, 1)}`.
      seeds: so many from 0 on, or which.
      text: a file or folder of text to train on.
      **macros: values of macros in every cell, among them `STUDY_FOLDER` and `SMALL`.

    Returns:
      The study: `study`, `cells`, `folder`, and `recipe(cell)`.

    Raises:
      UserError: for a mistake in the files, in an axis or in any cell.

    Example: `load_study("mile.gin", axes={"GAMMA": (0, 1)}, seeds=3)`.
    """
    flags = Flags(
        gin_files=tuple(os.fspath(path) for path in files),
        text=None if text is None else os.fspath(text),
        values=tuple(macros.items()),
    )
    chosen = range(seeds) if isinstance(seeds, int) else seeds
    found = read_sweep(flags, axes, None if chosen is None else tuple(chosen))
    found.check()
    return found


def sweep(study: Sweep, say: Callable[[str], Any] = print, retry: bool = False, together: int = 1) -> StudyRuns:
    """Trains the cells of a study that are missing, and writes its table.

    Args:
      study: what `load_study` returns.
      say: is called with a line for each cell.
      retry: runs cells again that failed.
      together: so many cells in one program, where they differ in traced numbers, seeds and rows alone.

    Returns:
      The study by its folder, with `states`, `table` and each cell's run.

    Raises:
      UserError: for a folder that holds another study; a cell that fails is marked, and the others go on.

    Example: `sweep(load_study("mile.gin", axes={"GAMMA": (0, 1)})).table`.
    """
    if not isinstance(study, Sweep):
        raise UserError(f"A study is what mixlm.load_study returns, not a value of type {type(study).__name__}.")
    run.run_cells(study, say, retry, together=together)
    collect.collect(study.folder)
    return StudyRuns(study.folder.path)


def results(study: StudyRuns | str | os.PathLike[str]) -> Results:
    """The table of a study, with its figures and optima.

    Args:
      study: what `sweep` returned, its folder or its cells.csv, or the name of a study whose table comes with mixlm.

    Returns:
      `frame`, and by metric `table`, `curves`, `final`, `epochs` and `best`.

    Raises:
      UserError: where there is no such table, or it is damaged.

    Example: `results("mile").table("validation/causal")`.
    """
    path = local(study._folder.path if isinstance(study, StudyRuns) else study, "The study")
    kept = studies_folder() / str(study) / FILE if isinstance(study, str) else path
    if path.is_dir() and not (path / FILE).exists() and not kept.exists():
        raise UserError(f"{path} holds no study's table: there is no {FILE} in it.")
    for table in (path / FILE, path, kept):
        if table.is_file():
            return Results(read_cells(table))
    names = sorted(each.parent.name for each in studies_folder().glob(f"*/{FILE}"))
    raise UserError(
        f"There is no study {str(path)!r}, and tables come with mixlm of {', '.join(names) or 'none'}."
        f"{nearest(str(path), names)}"
    )
