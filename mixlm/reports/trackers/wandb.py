"""Weights & Biases, in its project WANDB_PROJECT; WANDB_MODE=offline keeps the figures in the run's folder `wandb`."""

import os
from collections.abc import Mapping
from typing import ClassVar

from mixlm.paths import make_within
from mixlm.reports.trackers.base import PROJECT, About


class Wandb:
    """A run of wandb, which goes on under its id where ours resumes; the steps that it has are not sent again."""

    library: ClassVar[str] = "wandb"
    extra: ClassVar[str | None] = "wandb"

    def __init__(self, about: About) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=about.name,
            id=about.known("wandb"),
            resume="allow",
            dir=str(make_within(about.folder, "wandb").parent),
            config=dict(about.settings),
            reinit="create_new",  # the cells of a sweep have one each, at the same time
            settings=wandb.Settings(console="off"),  # what the terminal shows stays there
        )
        self._first = self._run.starting_step
        about.remember("wandb", self._run.id)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Hands the figures to the process that sends them."""
        if step >= self._first:
            self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Waits until all is sent."""
        self._run.finish()
