"""Checksum manifests: each checkpoint lists its files with their lengths and CRC-32 sums, so corruption is found."""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixlm.checkpoints.history import HISTORY
from mixlm.errors import UserError
from mixlm.files import open_regular, read_json, replacing
from mixlm.paths import refuse_special, within

CHECKSUMS = "checksums.json"
FIGURES = "figures.json"  # Validation metrics of the state, where it was validated.
NAMES = "names.json"  # The names of a checkpoint that is kept for good.
# Orbax's own metadata of a step, completed after our checksums; without it Orbax complains on every reading.
NOTE = "_CHECKPOINT_METADATA"
# What Orbax takes its entries to be, where they are there; with another it opens none of a run's checkpoints.
NOTE_TYPES: dict[str, type | tuple[type, ...]] = {
    "custom_metadata": dict,
    "item_handlers": (dict, str),
    "metrics": dict,
    "performance_metrics": dict,
    "init_timestamp_nsecs": int,
    "commit_timestamp_nsecs": int,
}


def write_manifest(folder: Path) -> None:
    """Writes the manifest of all files in `folder`, and flushes it to the disk."""
    sums = {name: [path.stat().st_size, _crc32(path)] for name, path in _files(folder)}
    with replacing(folder / CHECKSUMS) as file:
        json.dump(sums, file, indent=0)


def find_corruption(folder: Path, lengths_only: bool = False) -> str | None:
    """Returns the first difference between the checkpoint in `folder` and its manifest, None for a whole checkpoint.

    With `lengths_only` the contents stay unread. Links and pipes inside of the folder count as corruption, and so does
    a file of arrays that the manifest does not name, as nobody knows what it should be.
    """
    try:
        sums = _read_manifest(folder)
        named = {within(folder, name): (name, size, crc) for name, (size, crc) in sums.items()}
        for path in folder.rglob("*"):
            refuse_special(path)
        for name, path in _files(folder):
            if path not in named and not path.name.startswith("."):  # such as .nfs0001, which is the file system's
                return f"{name} is not in {CHECKSUMS}"
    except (UserError, OSError) as error:
        return str(error).rstrip(".")
    for path, (name, size, crc) in named.items():
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if not lengths_only and _crc32(path) != crc:
            return f"{name} has other content than was written"
    return None


def _read_manifest(folder: Path) -> dict[str, list[int]]:
    """The length and the CRC-32 of each file; UserError where the manifest or Orbax's note is missing or damaged."""
    note: dict[str, Any] = _read(folder, NOTE)
    for name, types in NOTE_TYPES.items():
        if note.get(name) is not None and not isinstance(note[name], types):
            raise UserError(f"{NOTE} is damaged: its {name} is {json.dumps(note[name])[:40]}")
    found: dict[str, list[int]] = _read(folder, CHECKSUMS)
    if not found:
        raise UserError(f"{CHECKSUMS} names no file")
    for name, entry in found.items():
        if not (isinstance(entry, list) and len(entry) == 2 and all(type(number) is int for number in entry)):
            raise UserError(f"{CHECKSUMS} holds no length and checksum of {name}")
    return found


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        return read_json(within(folder, name))
    except UserError as error:
        raise UserError(f"{name} is missing or unreadable: {error}") from None


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        # Orbax may still write its notes in the folder itself; the arrays are all deeper.
        if path.is_file() and (path.parent != folder or path.name in (FIGURES, HISTORY, NAMES)):
            yield path.relative_to(folder).as_posix(), path


def _crc32(path: Path) -> int:
    crc = 0
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc
