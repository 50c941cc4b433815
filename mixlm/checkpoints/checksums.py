"""Checksum manifests: each checkpoint lists its files with their lengths and CRC-32 sums, so corruption is found."""

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from mixlm.errors import UserError
from mixlm.paths import refuse_link, within

CHECKSUMS = "checksums.json"
FIGURES = "figures.json"  # Validation metrics of the state, where it was validated.
# Orbax's own metadata of a step, completed after our checksums; without it Orbax complains on every reading.
NOTE = "_CHECKPOINT_METADATA"


def write_manifest(folder: Path) -> None:
    """Writes the manifest of all files in `folder`, and flushes it to the disk."""
    sums = {name: [path.stat().st_size, _crc32(path)] for name, path in _files(folder)}
    with (folder / CHECKSUMS).open("w") as file:
        json.dump(sums, file, indent=0)
        file.flush()
        os.fsync(file.fileno())


def find_corruption(folder: Path, lengths_only: bool = False) -> str | None:
    """Returns the first difference between the checkpoint in `folder` and its manifest, None for a whole checkpoint.

    With `lengths_only` the contents stay unread. Links inside of the folder count as corruption.
    """
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
