"""Whether a checkpoint is whole: each has a list of its files, with the length and CRC-32 of every one."""

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from mixlm.errors import UserError
from mixlm.paths import refuse_link, within

CHECKSUMS = "checksums.json"
FIGURES = "figures.json"  # What validation said of the state, where it was validated.
# Orbax's own note on a step, completed after our checksums; without it Orbax complains on every reading.
NOTE = "_CHECKPOINT_METADATA"


def seal(folder: Path) -> None:
    """Lists what all have written to `folder`, on the disk when this returns."""
    sums = {name: [path.stat().st_size, _crc32(path)] for name, path in _files(folder)}
    with (folder / CHECKSUMS).open("w") as file:
        json.dump(sums, file, indent=0)
        file.flush()
        os.fsync(file.fileno())


def fault(folder: Path, lengths_only: bool = False) -> str | None:
    """What keeps the checkpoint in `folder` from being whole, None when nothing does."""
    try:
        for note in (NOTE, CHECKSUMS):
            sums = json.loads(within(folder, note).read_text())
        named = {within(folder, name): (name, size, crc) for name, (size, crc) in sums.items()}
        for path in folder.rglob("*"):
            refuse_link(path)
    except UserError as error:
        return str(error).rstrip(".")
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{note} is missing or unreadable"
    for path, (name, size, crc) in named.items():
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if not lengths_only and _crc32(path) != crc:
            return f"{name} has other content than was written"
    return None


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        # Orbax may still write its notes in the folder itself; the arrays are all deeper.
        if path.is_file() and (path.parent != folder or path.name == FIGURES):
            yield path.relative_to(folder).as_posix(), path


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc
