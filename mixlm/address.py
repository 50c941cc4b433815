"""Which checkpoint of which run is meant: RUN (its newest), RUN@STEP, RUN@best."""

import re
from dataclasses import dataclass
from pathlib import Path

from mixlm.checkpoint import Checkpoints
from mixlm.errors import UserError

BEST = "best"


@dataclass(frozen=True)
class Address:
    """A run's folder, and what follows its last @: a step's number, "best", or nothing (None)."""

    folder: Path
    which: int | str | None = None

    @staticmethod
    def of(text: str) -> "Address":
        """Reads RUN, RUN@STEP or RUN@best; a folder that has an @ in its own name is that folder."""
        match = re.fullmatch(rf"(.+)@(\d+|{BEST})", text, re.DOTALL)
        if match is None or Path(text).exists():
            return Address(Path(text))
        return Address(Path(match[1]), match[2] if match[2] == BEST else int(match[2]))

    def step(self, checkpoints: Checkpoints, metric: str | None) -> int | None:
        """The step that is meant, None for the newest; the best is the one with the lowest `metric` of validation.

        Raises UserError where that step is not kept, naming those that are, and where no figure says which is best.
        """
        if self.which != BEST:
            return checkpoints.kept(self.which) if isinstance(self.which, int) else None
        if metric is None:
            raise UserError(f"Which checkpoint of {self.folder} is best depends on BEST_METRIC: name a figure there.")
        best = checkpoints.best(metric)
        if best is None:
            raise UserError(
                f"No checkpoint of {self.folder} holds a figure {metric!r} of its validation (BEST_METRIC); it keeps "
                f"{checkpoints.listed()}."
            )
        return best[0]

    def __str__(self) -> str:
        return str(self.folder) if self.which is None else f"{self.folder}@{self.which}"
