"""Checkpoints: saved by Orbax in the background, each with its checksums, restored onto any mesh."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from mixlm.checkpoints.checksums import FIGURES, NAMES, write_manifest
from mixlm.checkpoints.compatibility import check_same_arrays
from mixlm.checkpoints.history import Record, write_history
from mixlm.checkpoints.kept import KeptCheckpoints, tell_torn
from mixlm.checkpoints.orbax_io import load_orbax, readable_errors
from mixlm.checkpoints.retention import Policy, Retention
from mixlm.errors import UserError
from mixlm.files import replacing
from mixlm.parallel.processes import broadcast, is_main
from mixlm.reports.best import Best


def size_in_bytes(state: PyTree) -> int:
    """The bytes of all arrays in `state` (arrays or ShapeDtypeStructs), before compression."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(state))


class Checkpoints(KeptCheckpoints):
    """The checkpoints of a run, saved and restored: the newest `keep` stay.

    Beside them stay the `keep_best` ones with the best `best_metric` of validation, by its name alone the lowest, and
    those of every `keep_period`-th step, and those that were saved under a name.

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
        super().__init__(folder)
        self.retention = Retention(keep, best_metric, keep_best, keep_period)
        self._manager: Any = None
        self._saving: int | None = None
        self._record: Record | None = None
        self.told: list[str] = []  # the sentences about checkpoints that `restore` passed over

    def save(
        self,
        step: int,
        state: PyTree,
        figures: Mapping[str, float] | None = None,
        note: Mapping[str, Any] | None = None,
        record: Path | None = None,
        names: Sequence[str] = (),
    ) -> bool:
        """Begins to save `state` as the checkpoint of `step`; returns False when a whole one is there already.

        `figures` are those of the state's validation, by which the best is found; `note` is what else the checkpoint
        shall say of itself, in JSON, such as the data that were read; of the run's `record`, its metrics.jsonl, the
        checkpoint holds a copy of what was written until now. With `names` it stays for good. The arrays are copied
        before this returns, so they may be donated; an earlier save is waited for first.
        """
        self.wait()
        if broadcast(lambda: step in self._steps() and self._corruption(step, lengths_only=True) is None):
            return False
        self._set_aside(step)
        self._saving = step
        self._figures[step], self._names[step] = dict(figures or {}), list(names)
        self._record = None if record is None else Record.until_now(record)
        broadcast(lambda: self._check_space(state))
        with self._writing():
            said = None if note is None else dict(note)
            self._open().save(step, args=load_orbax().args.StandardSave(state), force=True, custom_metadata=said)
        return True

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
            self.told.append(tell_torn(self.folder, torn, step))
        if step is None:
            return None
        manager = self._open()
        check_same_arrays(abstract_state, manager.item_metadata(step), self.folder / str(step))
        with readable_errors(f"The checkpoint of step {step} in {self.folder} could not be read"):
            return step, manager.restore(step, args=load_orbax().args.StandardRestore(abstract_state))

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
                preservation_policy=Policy(self.retention, self.figures, self.names),
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

    def _write_checksums(self) -> None:
        """Runs on Orbax's thread in process 0, when all have written, just before the folder gets its final name."""
        (folder,) = self.folder.glob(f"{self._saving}.*tmp*")
        if self._saving is not None:
            for name, said in ((FIGURES, self._figures[self._saving]), (NAMES, self._names[self._saving])):
                if said:
                    with replacing(folder / name) as file:
                        json.dump(said, file, indent=1)
        if self._record is not None:
            write_history(folder, self._record)
        write_manifest(folder)

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
