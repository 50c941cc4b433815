"""`compare`: curves of several runs in one picture."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mixlm.api.run import Run
from mixlm.api.study import StudyRuns
from mixlm.errors import UserError, nearest
from mixlm.reports.comparison import comparison_figure
from mixlm.reports.curves import AXES

Runs = Mapping[str, "Run | str | os.PathLike[str]"] | StudyRuns


def compare(runs: Runs, metrics: str | Sequence[str], against: str | Sequence[str] = "step", title: str = "") -> Any:
    """Draws a line for each run: a row of panels for each metric, a column for each axis.

    Args:
      runs: runs or their folders by name, or a study, whose trained cells are the runs.
      metrics: columns of the runs' metrics, such as "validation/causal".
      against: "step", "flops", "tokens" or "epoch", or some of them.
      title: stands above.

    Returns:
      A matplotlib Figure, made without pyplot. A diamond marks where a run's objective is switched; a run that was
      forked from another begins with that one's line.

    Raises:
      UserError: for an axis or metric that there is not.

    Example: `compare({"half": "runs/a", "quarter": "runs/b"}, "validation/causal", ("step", "flops"))`.
    """
    if isinstance(runs, StudyRuns):
        runs = {cell: runs[cell] for cell, state in runs.states.items() if state == "done"}
    found = {name: run if isinstance(run, Run) else Run(run) for name, run in runs.items()}
    if not found:
        raise UserError("There is no run to draw: give at least one, such as {'a': 'runs/a'}.")
    asked, axes = ((each,) if isinstance(each, str) else tuple(each) for each in (metrics, against))
    for name in axes:
        if name not in AXES:
            raise UserError(f"Curves are drawn against {', '.join(AXES)}, not {name!r}.{nearest(name, AXES)}")
    records = {name: run.history for name, run in found.items()}
    known = dict.fromkeys(key for each in records.values() for key in each.columns if "/" in key or key == "loss")
    for metric in asked:
        if metric not in known:
            raise UserError(f"No run has logged {metric!r}.{nearest(metric, known)}")
    switches = {name: [step for step, _ in run.switches] for name, run in found.items()}
    return comparison_figure({name: each.rows for name, each in records.items()}, asked, axes, switches, title)
