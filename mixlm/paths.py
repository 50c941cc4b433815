"""Paths: those that users give, references to runs (RUN, RUN@STEP, RUN@best, RUN@chck_10M), and names in files."""

import errno
import os
import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from mixlm.errors import UserError

BEST = "best"
# A checkpoint that is kept by its words, as BabyLM's pipeline calls it.
NAME = r"chck_[0-9]{1,15}[KM]?"
# Linux's NAME_MAX, and its PATH_MAX of 4,096 less (ours) what a run, a store or a checkpoint writes below a folder.
NAME_BYTES, PATH_BYTES = 255, 3072
_SHOWN = 80  # Ours: enough of a path to know it again.
# Two letters at least, so that a drive is no scheme; pathlib makes one slash of two.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def is_url(text: object) -> bool:
    """Returns True for what has a scheme, such as gs://bucket/place."""
    return _URL.match(str(text)) is not None


def local(text: Any, name: str = "The path") -> Path:
    """Returns the local path, text or PathLike, that a user gave, with ~ expanded.

    Raises UserError, with its `name`, for a URL, for what no file can be called, and where nobody may look. That
    nothing is there is no error.
    """
    if not isinstance(text, str | PathLike) or isinstance(found := os.fspath(text), bytes):
        raise UserError(f"{name} is a path, not a value of type {type(text).__name__}.")
    if is_url(found):
        raise UserError(f"{name} {found!r} is a URL, and only local paths are read and written: copy or mount it.")
    path = Path(os.path.expanduser(found))
    if str(path).startswith("~") and not found.startswith("~"):
        path = path.absolute()  # ./~a is no home folder, and Path drops the ./
    if fault := _fault(path):
        shown = found if len(found) <= _SHOWN else f"{found[:_SHOWN]}..."
        raise UserError(f"{name} {shown!r} cannot be used: {fault}.")
    return path


def _fault(path: Path) -> str | None:
    """Why a path can be no file's, also one that is not there yet; None where it can."""
    text = str(path)
    if "\0" in text:
        return "it holds a NUL character"
    try:
        sizes = [len(part.encode()) for part in path.parts]
    except UnicodeEncodeError:
        return "it is not UTF-8"  # config.gin, recipe.json and the table of an evaluation hold it as text
    if text.startswith("~"):
        user = path.parts[0]
        return f"there is no user {user[1:]!r} with a home folder (a folder of that name is ./{user})"
    if max(sizes, default=0) > NAME_BYTES:
        return f"a name in it has {max(sizes):,} bytes, and a file's has at most {NAME_BYTES}"
    if (size := len(os.path.abspath(text).encode(errors="surrogateescape"))) > PATH_BYTES:
        return f"it has {size:,} bytes, and at most {PATH_BYTES:,} leave room for the files of a run"
    try:
        os.stat(path)
    except OSError as error:
        return None if error.errno in (errno.ENOENT, errno.ENOTDIR) else str(error.strerror)
    return None


@dataclass(frozen=True)
class RunRef:
    """A run's folder and which of its checkpoints: a step, "best", a name ("chck_10M"), or None for the newest."""

    folder: Path
    which: int | str | None = None

    @staticmethod
    def parse(text: str | PathLike[str], name: str = "The run") -> "RunRef":
        """Reads RUN, RUN@STEP, RUN@best or RUN@chck_10M; a folder that has an @ in its own name is that folder.

        RUN is a local path (see `local`), and `name` is what an error calls it.
        """
        path = local(text, name)
        match = re.fullmatch(rf"(.+)@([0-9]{{1,18}}|{BEST}|{NAME})", str(path), re.DOTALL)
        if match is None or path.exists():
            return RunRef(path)
        return RunRef(Path(match[1]), int(match[2]) if match[2].isdigit() else match[2])

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
