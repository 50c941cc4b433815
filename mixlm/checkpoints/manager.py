"""Checkpoints: saved by Orbax in the background, each with its checksums, restored onto any mesh."""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from mixlm.checkpoints.checksums import FIGURES, NOTE, find_corruption, write_manifest
from mixlm.checkpoints.compatibility import check_same_arrays
from mixlm.checkpoints.history import Record, read_history, write_history
from mixlm.checkpoints.orbax_io import load_orbax, readable_errors
from mixlm.checkpoints.reader import read_params
from mixlm.checkpoints.retention import Policy, Retention
from mixlm.errors import UserError
from mixlm.files import is_number, read_json, replacing
from mixlm.parallel.processes import broadcast, is_main
from mixlm.paths import BEST, RunRef, refuse_special, within
from mixlm.reports.best import Best


def size_in_bytes(state: PyTree) -> int:
    """The bytes of all arrays in `state` (arrays or ShapeDtypeStructs), before compression."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(state))


class Checkpoints:
    """The checkpoints of a run: one sub-folder per step, of which the newest `keep` stay.

    Beside them stay the `keep_best` ones with the best `best_metric` of validation, by its name alone the lowest, and
    those of every `keep_period`-th step.

    A checkpoint is whole when every file that its `checksums.json` names has the length and CRC-32 given there, so one
    that was cut short, or damaged later, is noticed before Orbax reads it (TensorStore lets flipped bytes pass).
    Nothing is written before the first save. Failures of the disk are raised as UserError, at the latest by `wait`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: int = 3,
        best_metric: str | Best | None = None,
        keep_best: int = 1,
        keep_period: int | None = None,
    ) -> None:
        self.retention = Retention(keep, best_metric, keep_best, keep_period)
        self.folder = Path(folder).absolute()
        self._manager: Any = None
        self._saving: int | None = None
        self._figures: dict[int, dict[str, float]] = {}
        self._record: Record | None = None
        self.told: list[str] = []  # the sentences about checkpoints that `restore` passed over

    def save(
        self,
        step: int,
        state: PyTree,
        figures: Mapping[str, float] | None = None,
        note: Mapping[str, Any] | None = None,
        record: Path | None = None,
    ) -> bool:
        """Begins to save `state` as the checkpoint of `step`; returns False when a whole one is there already.

        `figures` are those of the state's validation, by which the best is found; `note` is what else the checkpoint
        shall say of itself, in JSON, such as the data that were read; of the run's `record`, its metrics.jsonl, the
        checkpoint holds a copy of what was written until now. The arrays are copied before this returns, so they may
        be donated; an earlier save is waited for first.
        """
        self.wait()
        if broadcast(lambda: step in self._steps() and self._corruption(step, lengths_only=True) is None):
            return False
        self._set_aside(step)
        self._saving = step
        self._figures[step] = dict(figures or {})
        self._record = None if record is None else Record.until_now(record)
        broadcast(lambda: self._check_space(state))
        with self._writing():
            said = None if note is None else dict(note)
            self._open().save(step, args=load_orbax().args.StandardSave(state), force=True, custom_metadata=said)
        return True

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

    def restore(self, abstract_state: PyTree) -> tuple[int, PyTree] | None:
        """Reads the newest whole checkpoint onto the shardings of `abstract_state`; None when there is none.

        `abstract_state` holds jax.ShapeDtypeStructs with shardings, of any mesh. Checkpoints that are not whole are
        renamed `<step>.torn`, so that their steps can be saved again, and one printed sentence names them: Orbax reads
        the notes of all that there are, and would fail on a damaged one. Raises UserError for the first parameter whose
        name, shape or type differs.
        """
        self.wait()
        step, torn = broadcast(lambda: self._newest_whole(older=True))
        for torn_step, _ in torn:
            self._set_aside(torn_step)
        if torn and is_main():
            self.told.append(_tell(self.folder, torn, step))
        if step is None:
            return None
        manager = self._open()
        check_same_arrays(abstract_state, manager.item_metadata(step), self.folder / str(step))
        with readable_errors(f"The checkpoint of step {step} in {self.folder} could not be read"):
            return step, manager.restore(step, args=load_orbax().args.StandardRestore(abstract_state))

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
            _tell(self.folder, torn, newest)
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
        if ref.which != BEST:
            return self.kept(ref.which) if isinstance(ref.which, int) else None
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

    def latest(self) -> int | None:
        """The newest step whose checkpoint has all of its files in full length, None without one."""
        self.wait()
        return broadcast(self.written)

    def written(self) -> int | None:
        """As `latest`, but from this process alone and without waiting for what is being saved."""
        return next(
            (step for step in sorted(self._steps(), reverse=True) if self._corruption(step, True) is None), None
        )

    def wait(self) -> None:
        """Returns when the save that runs in the background is on the disk; raises UserError when it failed."""
        if self._manager is None:
            return
        with self._writing():
            self._manager.wait_until_finished()
        self._saving = None

    def close(self) -> None:
        """Waits for the last save and ends Orbax's threads."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def _open(self) -> Any:
        if self._manager is None:
            ocp = load_orbax()
            options = ocp.CheckpointManagerOptions(
                preservation_policy=Policy(self.retention, self.figures),
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
            )
            with readable_errors(f"The folder of checkpoints {self.folder} could not be opened"):
                self._manager = ocp.CheckpointManager(
                    self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
                )
        return self._manager

    def _check_space(self, state: PyTree) -> None:
        """A disk that fills up under Orbax is reported too, but only after its threads' tracebacks."""
        place = next(parent for parent in (self.folder, *self.folder.parents) if parent.exists())
        needed, free = size_in_bytes(state), shutil.disk_usage(place).free
        if free < needed:
            raise UserError(
                f"The checkpoint of step {self._saving} needs {needed / 1e9:.3g} GB and {self.folder} "
                f"has {free / 1e9:.3g} GB left; nothing was written."
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

    def _write_checksums(self) -> None:
        """Runs on Orbax's thread in process 0, when all have written, just before the folder gets its final name."""
        (folder,) = self.folder.glob(f"{self._saving}.*tmp*")
        if self._saving is not None and self._figures[self._saving]:
            with replacing(folder / FIGURES) as file:
                json.dump(self._figures[self._saving], file, indent=1)
        if self._record is not None:
            write_history(folder, self._record)
        write_manifest(folder)

    def _corruption(self, step: int, lengths_only: bool = False) -> str | None:
        return find_corruption(self.folder / str(step), lengths_only)

    def _set_aside(self, step: int) -> None:
        def move() -> None:
            aside = self.folder / f"{step}.torn"
            if (self.folder / str(step)).exists():
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(step)).rename(aside)

        broadcast(move)
        if self._manager is not None:
            self._manager.reload()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return readable_errors(f"The checkpoint of step {self._saving} could not be written to {self.folder}")


def _tell(folder: Path, torn: list[tuple[int, str]], step: int | None) -> str:
    steps = ", ".join(str(torn_step) for torn_step, _ in torn)
    onward = f"going on from the whole one of step {step}" if step is not None else "and no other is whole"
    plural = "checkpoints of steps" if len(torn) > 1 else "checkpoint of step"
    sentence = f"Not whole in {folder}: the {plural} {steps} ({torn[0][1]}); {onward}."
    print(sentence, flush=True)
    return sentence
