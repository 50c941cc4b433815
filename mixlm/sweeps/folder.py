"""The folder of a study: the runs of its cells, a record of each, claims, and what the study is."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixlm.checkpoints.run_dir import RunDir
from mixlm.errors import UserError
from mixlm.files import open_in_place, read_json, replacing
from mixlm.paths import local, make_within, within

STUDY, TABLE, RECORDS = "study.json", "cells.csv", "records"
# What makes two starts in one folder the same study; its values, seeds and arms may grow.
SAME = ("name", "recipe")
# Ours: a claim is tried so often, since who looks whether a cell is running holds its lock for a moment.
TRIES, PAUSE = 5, 0.02


class StudyFolder:
    """`study.json`, `cells.csv`, a run's folder for each cell, and in `records/` what each cell's run cannot know.

    A record says with which version, on which device and in how many seconds a cell was trained, the figures of its
    evaluations, and the sentence with which it failed. A claim is a lock of the operating system on a file there: it
    belongs to a process, and ends with it, however it ends.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local(path, "The study's folder")
        self.study, self.table = self.path / STUDY, self.path / TABLE

    def content(self) -> dict[str, Any]:
        """The study's description; UserError where the folder holds none."""
        if not self.study.is_file():
            raise UserError(f"There is no study in {self.path} (no {STUDY}): `mixlm sweep` makes one.")
        return read_json(within(self.path, STUDY))

    def check(self, content: Mapping[str, Any]) -> None:
        """Raises UserError where the folder holds another study, or files and no study; writes nothing."""
        if not self.study.exists():
            if self.path.exists() and (not self.path.is_dir() or any(p.name[0] != "." for p in self.path.iterdir())):
                raise UserError(f"{self.path} exists and is no study's folder (it has no {STUDY}): choose another one.")
            return
        held = self.content()
        differing = [f"{name} {held.get(name)!r} instead of {content[name]!r}" for name in SAME
                     if held.get(name) != content[name]]  # fmt: skip
        before, now = sorted(held.get("axes", {})), sorted(content["axes"])
        if before != now:
            differing.append(f"axes {', '.join(before) or 'none'} instead of {', '.join(now) or 'none'}")
        if differing:
            raise UserError(
                f"{self.path} holds another study, with {' and '.join(differing)}: give this one a folder of its own "
                "with --gin.STUDY_FOLDER=FOLDER."
            )

    def write(self, content: Mapping[str, Any]) -> None:
        """Writes study.json."""
        try:
            make_within(self.path, RECORDS)
            with replacing(self.study) as file:
                json.dump(content, file, indent=1)
                file.write("\n")
        except OSError as error:
            raise UserError(f"{self.path} cannot be written to: {error.strerror}.") from error

    def run(self, cell: str) -> RunDir:
        """The run of a cell, which may not be there yet."""
        return RunDir(self.path / cell)

    # Records

    def record(self, cell: str) -> dict[str, Any]:
        """The record of a cell, {} before it has one."""
        path = within(self.path, f"{RECORDS}/{cell}.json")
        return read_json(path) if path.exists() else {}

    def note(self, cell: str, **facts: Any) -> None:
        """Adds facts to the record of a cell; a fact that is None is taken out."""
        held = {name: value for name, value in (self.record(cell) | facts).items() if value is not None}
        try:
            with replacing(self.path / RECORDS / f"{cell}.json") as file:
                json.dump(held, file, indent=1)
                file.write("\n")
        except OSError as error:
            raise UserError(f"{self.path / RECORDS} cannot be written to: {error.strerror}.") from error

    # Claims

    @contextmanager
    def claim(self, cell: str) -> Iterator[bool]:
        """True inside of the block where this process alone may train the cell, False where another one does."""
        held = self._locked(cell, fcntl.LOCK_EX)
        try:
            yield held is not None
        finally:
            if held is not None:
                os.close(held)

    def is_claimed(self, cell: str) -> bool:
        """True where a process is training the cell."""
        if not within(self.path, f"{RECORDS}/{cell}.lock").exists():
            return False
        held = self._locked(cell, fcntl.LOCK_SH, 1)
        if held is not None:
            os.close(held)
        return held is None

    def _locked(self, cell: str, kind: int, tries: int = TRIES) -> int | None:
        held = open_in_place(within(self.path, f"{RECORDS}/{cell}.lock"))
        for _ in range(tries):
            try:
                fcntl.flock(held, kind | fcntl.LOCK_NB)
                return held
            except BlockingIOError:
                time.sleep(PAUSE)
            except OSError as error:
                os.close(held)
                raise UserError(f"{self.path} is on a file system without locks ({error.strerror}).") from error
        os.close(held)
        return None

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


def default_folder(name: str) -> Path:
    """The folder of a study that names none."""
    return Path("runs") / "studies" / name
