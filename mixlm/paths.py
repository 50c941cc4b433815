"""How runs are named (RUN, RUN@STEP, RUN@best), and names read from files, which must not lead out of their folder."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mixlm.errors import UserError

BEST = "best"


@dataclass(frozen=True)
class RunRef:
    """A run's folder and which of its checkpoints: a step, "best", or None for the newest."""

    folder: Path
    which: int | str | None = None

    @staticmethod
    def parse(text: str) -> "RunRef":
        """Reads RUN, RUN@STEP or RUN@best; a folder that has an @ in its own name is that folder."""
        match = re.fullmatch(rf"(.+)@(\d+|{BEST})", text, re.DOTALL)
        if match is None or Path(text).exists():
            return RunRef(Path(text))
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


def refuse_link(path: Path) -> None:
    """Raises UserError where `path` is a symbolic link, which may lead anywhere."""
    if path.is_symlink():
        raise UserError(f"{path} is a link, and links are followed in no run, store or checkpoint: put the file there.")
