"""The checkpoints that a run's folder keeps, read only: which are whole, the newest, the best, and what they hold."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from mixlm.checkpoints.checksums import FIGURES, NAMES, NOTE, find_corruption
from mixlm.checkpoints.history import read_history
from mixlm.checkpoints.orbax_io import readable_errors
from mixlm.checkpoints.reader import read_params
from mixlm.checkpoints.retention import Retention
from mixlm.errors import UserError, nearest
from mixlm.files import is_number, read_json
from mixlm.parallel.processes import broadcast, is_main
from mixlm.paths import BEST, NAME, RunRef, refuse_special, within
from mixlm.reports.best import Best


class KeptCheckpoints:
    """The checkpoints in a folder, one sub-folder per step; nothing is touched.

    A checkpoint is whole when every file that its `checksums.json` names has the length and CRC-32 given there, so one
    that was cut short, or damaged later, is noticed before Orbax reads it (TensorStore lets flipped bytes pass).
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        self._figures: dict[int, dict[str, float]] = {}
        self._names: dict[int, list[str]] = {}

    def wait(self) -> None:
        """Returns when nothing is being saved any more."""

    def note(self, step: int) -> dict[str, Any]:
        """A checkpoint's note, the metadata it was saved with; {} without one."""
        self.wait()
        held: dict[str, Any] = read_json(within(self.folder / str(step), NOTE))
        found = held.get("custom_metadata")
        return found if isinstance(found, dict) else {}

    def histories(self, until: int) -> Iterator[bytes]:
        """The lines of metrics.jsonl that each checkpoint up to step `until` holds, those of the newest first."""
        for step in sorted(self._steps(), reverse=True):
            if step <= until and self._corruption(step, lengths_only=True) is None:
                yield read_history(self.folder / str(step))

    def restore_params(self, abstract_params: dict[str, PyTree], step: int | None = None) -> tuple[int, Any] | None:
        """Reads the parameters of some networks from a checkpoint, by default the newest whole one; None without one.

        `abstract_params` is as in `reader.read_params`. The folder may be another run's: it is only read.
        """
        step = self.whole(step)
        return None if step is None else (step, read_params(self.folder / str(step), abstract_params))

    def whole(self, step: int | None = None) -> int | None:
        """The step, by default the newest, whose checkpoint is whole by its checksums; None where there is none.

        Nothing is touched; one printed sentence names the newer ones that are skipped because they are not whole.
        Raises UserError where a step that was asked for is not kept or not whole.
        """
        self.wait()
        with readable_errors(f"The checkpoints in {self.folder} could not be read"):
            if step is not None:
                return broadcast(lambda: self._asked(step))
            newest, torn = broadcast(self._newest_whole)
        if torn and is_main():
            tell_torn(self.folder, torn, newest)
        return newest

    def _asked(self, step: int) -> int:
        if problem := self._corruption(self.kept(step)):
            raise UserError(f"The checkpoint {self.folder / str(step)} is not whole: {problem}.")
        return step

    def kept(self, step: int) -> int:
        """Returns `step`; raises UserError, naming those that there are, where no checkpoint of that step is kept."""
        if step not in self._steps():
            raise UserError(f"{self.folder} keeps no checkpoint of step {step}, it keeps {self.listed()}.")
        return step

    def listed(self) -> str:
        """The steps whose checkpoints are kept, for a sentence."""
        *others, last = [str(step) for step in sorted(self._steps())] or ["none"]
        return f"{', '.join(others)} and {last}" if others else last

    def best(self, metric: str | Best) -> tuple[int, float] | None:
        """The step with the best `metric` among the checkpoints that are whole, and that figure; None without one."""
        self.wait()
        figures = {step: self.figures(step) for step in self._steps()}
        ranked = Retention(metric=metric).ranked(figures)
        # Whether all bytes are right takes as long as reading them, so that the best is asked first.
        name = metric if isinstance(metric, str) else metric.metric
        return next(((step, figures[step][name]) for step in ranked if self._corruption(step) is None), None)

    def resolve(self, ref: RunRef, metric: str | Best | None) -> int | None:
        """The step that `ref` names, None for the newest; the best is that by `metric`, a figure of validation.

        Raises UserError where that step is not kept, naming those that are, and where no figure says which is best.
        """
        if not isinstance(ref.which, str):
            return None if ref.which is None else self.kept(ref.which)
        if ref.which != BEST:
            return self._called(ref.which)
        if metric is None:
            raise UserError(f"Which checkpoint of {ref.folder} is best depends on BEST_METRIC: name a figure there.")
        best = self.best(metric)
        if best is None:
            name = metric if isinstance(metric, str) else metric.metric
            raise UserError(
                f"No checkpoint of {ref.folder} holds a figure {name!r} of its validation (BEST_METRIC); it keeps "
                f"{self.listed()}."
            )
        return best[0]

    def figures(self, step: int) -> dict[str, float]:
        """The validation figures of a checkpoint's state; {} where it was not validated."""
        if step not in self._figures:
            try:
                found: dict[str, float] = read_json(within(self.folder / str(step), FIGURES))
            except UserError:
                found = {}
            self._figures[step] = found if all(map(is_number, found.values())) else {}
        return self._figures[step]

    def names(self, step: int) -> list[str]:
        """The names under which a checkpoint stays for good; [] where it has none."""
        if step not in self._names:
            try:
                found = read_json(within(self.folder / str(step), NAMES), list)
            except UserError:
                found = []
            # A name becomes a folder of results, and the file may be anybody's.
            self._names[step] = [name for name in found if isinstance(name, str) and re.fullmatch(NAME, name)]
        return self._names[step]

    def named(self) -> dict[str, int]:
        """The step of each checkpoint that has a name, in their order."""
        self.wait()
        return {name: step for step in sorted(self._steps()) for name in self.names(step)}

    def _called(self, name: str) -> int:
        named = self.named()
        if name not in named:
            known = ", ".join(named) or "none by a name (KEEP_AT_WORDS)"
            raise UserError(f"{self.folder} keeps no checkpoint {name!r}, it keeps {known}.{nearest(name, named)}")
        return named[name]

    def latest(self) -> int | None:
        """The newest step whose checkpoint has all of its files in full length, None without one."""
        self.wait()
        return broadcast(self.written)

    def written(self) -> int | None:
        """As `latest`, but from this process alone and without waiting for what is being saved."""
        return next(
            (step for step in sorted(self._steps(), reverse=True) if self._corruption(step, True) is None), None
        )

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        entries = list(self.folder.iterdir())
        for entry in entries:
            refuse_special(entry)
        # Orbax writes no leading zeros, and no digits but these.
        return [int(entry.name) for entry in entries if re.fullmatch(r"0|[1-9][0-9]{0,17}", entry.name)]

    def _newest_whole(self, older: bool = False) -> tuple[int | None, list[tuple[int, str]]]:
        """The newest step whose checkpoint is whole, and the steps after it with what is wrong with each.

        With `older` those before it are named as well that lack a file, or have one of another length.
        """
        newest: int | None = None
        torn: list[tuple[int, str]] = []
        for step in sorted(self._steps(), reverse=True):
            if problem := self._corruption(step, lengths_only=newest is not None):
                torn.append((step, problem))
            elif newest is None:
                newest = step
            if newest is not None and not older:
                break
        return newest, torn

    def _corruption(self, step: int, lengths_only: bool = False) -> str | None:
        return find_corruption(self.folder / str(step), lengths_only)


def tell_torn(folder: Path, torn: list[tuple[int, str]], step: int | None) -> str:
    """Prints the sentence that names the steps whose checkpoints are not whole, and the one that is; returns it."""
    steps = ", ".join(str(torn_step) for torn_step, _ in torn)
    onward = f"going on from the whole one of step {step}" if step is not None else "and no other is whole"
    plural = "checkpoints of steps" if len(torn) > 1 else "checkpoint of step"
    sentence = f"Not whole in {folder}: the {plural} {steps} ({torn[0][1]}); {onward}."
    print(sentence, flush=True)
    return sentence
