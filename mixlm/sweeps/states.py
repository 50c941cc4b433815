"""States of cells: done, running, failed or missing, as their folders and records tell."""

from collections.abc import Mapping
from typing import Any

from mixlm.sweeps.folder import StudyFolder

DONE, RUNNING, FAILED, MISSING = "done", "running", "failed", "missing"


def state_in(folder: StudyFolder, cell: str) -> str:
    """The state of a cell; one that was begun, or is not evaluated yet, and that no process holds is missing."""
    if folder.is_claimed(cell):
        return RUNNING
    return settled_state(folder, cell, folder.record(cell))


def settled_state(folder: StudyFolder, cell: str, record: Mapping[str, Any]) -> str:
    """The state of a cell that no other process holds."""
    if record.get("error"):
        return FAILED
    # What there is to evaluate is written down when a cell is trained, so that a folder alone tells its state.
    done = folder.run(cell).curves.exists() and not record.get("open", True)
    return DONE if done else MISSING
