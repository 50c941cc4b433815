"""The protocol of a tracker, what it is told of the run, and the id by which it knows a run again."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from mixlm.files import read_json, replacing
from mixlm.paths import refuse_special

IDS = "trackers.json"  # in a run's folder: the id of the run in each tracker that gives one
PROJECT = "mixlm"  # where the tracker's own environment variable names none


@dataclass(frozen=True)
class About:
    """A run as a tracker is told of it.

    `begun` steps were done when it began or resumed, and `recorded` is the last step that metrics.jsonl has, -1 for
    none. `settings` are the recipe's identity, as text.
    """

    folder: Path
    begun: int = 0
    recorded: int = -1
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.folder.absolute().name

    def known(self, tracker: str) -> str | None:
        """The id that `remember` kept, None without one."""
        return self._ids().get(tracker)

    def remember(self, tracker: str, number: str) -> None:
        """Keeps the id of this run in a tracker, so that a resumed run is the same one there."""
        ids = self._ids() | {tracker: number}
        with replacing(self.folder / IDS) as file:
            json.dump(ids, file, indent=1)

    def _ids(self) -> dict[str, str]:
        path = self.folder / IDS
        refuse_special(path)
        return read_json(path) if os.path.lexists(path) else {}


class Tracker(Protocol):
    """A place for a run's figures; `Tracker(about)` opens it, and whatever it raises ends it alone, not the run.

    A resumed run takes some steps again, to the same figures: what a tracker has of them, it may keep.
    """

    library: ClassVar[str]  # what is imported
    extra: ClassVar[str | None]  # the extra of mixlm that installs it, None where mixlm always has it

    def __init__(self, about: About) -> None: ...

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Takes the figures after `step`, which grows from call to call."""

    def close(self) -> None:
        """Sends what is left."""
