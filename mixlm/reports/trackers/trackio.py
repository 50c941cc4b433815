"""Trackio: a local database in TRACKIO_DIR, or a Space of Hugging Face by TRACKIO_SPACE_ID."""

import os
import secrets
from collections.abc import Mapping
from typing import ClassVar

from mixlm.reports.trackers.base import PROJECT, About


class Trackio:
    """A run of Trackio, which goes on under its name where ours resumes; the steps that it has are not sent again."""

    library: ClassVar[str] = "trackio"
    extra: ClassVar[str | None] = "trackio"

    def __init__(self, about: About) -> None:
        import trackio

        # Its name is all that a run of Trackio is known by, and folders of one name are many.
        name = about.known("trackio") or f"{about.name}-{secrets.token_hex(3)}"
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._run = trackio.init(project, name=name, config=dict(about.settings), resume="allow", embed=False)
        self._first: int = getattr(self._run, "_next_step", 0)
        about.remember("trackio", name)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Queues the figures for the thread that writes them."""
        if step >= self._first:
            self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Waits until all is written."""
        self._run.finish()
