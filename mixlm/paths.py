"""Paths: those that users give, references to runs (RUN, RUN@STEP, RUN@best), and names read from files."""

import os
import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath

from mixlm.errors import UserError

BEST = "best"
# Two letters at least, so that a drive is no scheme; pathlib makes one slash of two.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local(text: str | PathLike[str], name: str = "The path") -> Path:
    """Returns the local path that a user gave, with ~ expanded; raises UserError, with its `name`, for a URL."""
    if _URL.match(str(text)):
        raise UserError(f"{name} {str(text)!r} is a URL, and only local paths are read and written: copy or mount it.")
    return Path(os.path.expanduser(text))


@dataclass(frozen=True)
class RunRef:
    """A run's folder and which of its checkpoints: a step, "best", or None for the newest."""

    folder: Path
    which: int | str | None = None

    @staticmethod
    def parse(text: str, name: str = "The run") -> "RunRef":
        """Reads RUN, RUN@STEP or RUN@best; a folder that has an @ in its own name is that folder.

        RUN is a local path (see `local`), and `name` is what an error calls it.
        """
        path = local(text, name)
        match = re.fullmatch(rf"(.+)@([0-9]{{1,18}}|{BEST})", str(path), re.DOTALL)
        if match is None or path.exists():
            return RunRef(path)
        return RunRef(Path(match[1]), match[2] if match[2] == BEST else int(match[2]))

    def __str__(self) -> str:
        return str(self.folder) if self.which is None else f"{self.folder}@{self.which}"


def within(folder: Path, name: object) -> Path:
    """Returns `folder / name`; raises UserError where that is outside of the folder, or reached through a link."""
    place = PurePosixPath(name) if isinstance(name, str) and "\0" not in name else PurePosixPath()
    if not place.parts or place.is_absolute() or ".." in place.parts:
        raise UserError(f"{folder} speaks of a file {name!r}, which is not in it, so it is not read.")
    path = folder
    for part in place.parts:
        path = path / part
        refuse_link(path)
    return path


def make_within(folder: Path, name: str) -> Path:
    """Makes the folder `folder / name`, and those on the way to it; raises UserError where one of them is a link."""
    path = within(folder, name)
    path.mkdir(parents=True, exist_ok=True)
    return path


def refuse_special(path: Path) -> None:
    """Raises UserError where `path`, inside of a run or checkpoint, is neither a regular file nor a folder."""
    refuse_link(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is a pipe, a socket or a device, and a run holds files and folders alone: remove it.")


def refuse_link(path: Path) -> None:
    """Raises UserError where `path`, inside of a run, store or checkpoint, is a symbolic link."""
    if path.is_symlink():
        raise UserError(
            f"{path} is a link, and inside of a run, store or checkpoint no links are followed (MODEL_DIR and its "
            f"checkpoints folder may be links): put the file there."
        )
