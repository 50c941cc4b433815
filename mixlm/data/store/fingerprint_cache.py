"""Cached SHA-256 digests of files, and other small records, so that a second start reads no text again.

A record that is damaged, or about a file that has changed since, is as good as none.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mixlm import files
from mixlm.errors import UserError
from mixlm.files import replacing

# Ours: two changes within one tick of a file system's clock have the same time, so a fresh file may change unseen.
SETTLED_SECONDS = 2.0
_FOLDER: ContextVar[Path | None] = ContextVar("folder of the records", default=None)
_DIGESTS: dict[str, list[Any]] = {}


@contextlib.contextmanager
def caching_in(folder: Path) -> Iterator[None]:
    """Records are read from and written to `folder` inside of the block; outside of it nothing is kept on the disk."""
    token = _FOLDER.set(folder)
    try:
        yield
    finally:
        _FOLDER.reset(token)


def load_record(key: str) -> Any:
    """The record of that key, or None where there is none that is whole."""
    path = _path(key)
    if path is None:
        return None
    try:
        checksum, _, text = files.read_text(path).partition("\n")
        return files.parse_json(text, str(path)) if checksum == _sha256(text) else None
    except UserError:
        return None


def save_record(key: str, record: Any) -> None:
    """Keeps a record of plain values; a folder that cannot be written to keeps none."""
    path = _path(key)
    if path is None:
        return
    text = json.dumps(record)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(f"{_sha256(text)}\n{text}")


def stat_key(path: Path) -> list[int]:
    """Size, times of change in nanoseconds and inode of a file or folder, which change with it; raises OSError."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def is_settled(facts: Sequence[int]) -> bool:
    """Returns True if a later change would show in the times of `stat_key`."""
    return max(facts[1], facts[2]) < time.time_ns() - SETTLED_SECONDS * 1e9


def sha256_of(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each of `paths`, which is read only if it has changed since its digest was cached.

    A change is seen by size, by the times of its content and of its inode, or by its inode's number. Raises OSError for
    a file that is not there, and UserError for a pipe, a device or a folder.
    """
    places = [os.path.abspath(path) for path in paths]
    key = f"digests of {os.path.commonpath(places)}" if places else "digests"
    record = load_record(key)
    known = {**record, **_DIGESTS} if isinstance(record, dict) else dict(_DIGESTS)
    found = {place: _digest(path, known.get(place)) for path, place in zip(paths, places)}
    lasting = {place: entry for place, entry in found.items() if is_settled(entry[0])}
    _DIGESTS.update(lasting)
    if any(not isinstance(record, dict) or record.get(place) != entry for place, entry in lasting.items()):
        save_record(key, lasting)
    return [found[place][1] for place in places]


def _digest(path: Path, known: Any) -> list[Any]:
    facts = stat_key(path)
    if isinstance(known, list) and len(known) == 2 and known[0] == facts:
        return known
    with files.open_regular(path) as file:
        return [facts, hashlib.file_digest(file, "sha256").hexdigest()]


def _path(key: str) -> Path | None:
    folder = _FOLDER.get()
    return None if folder is None else folder / f"{_sha256(key)[:32]}.json"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
