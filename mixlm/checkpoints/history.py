"""The history in a checkpoint: a compressed copy of metrics.jsonl as it was at the checkpoint's step."""

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

from mixlm.errors import UserError
from mixlm.files import open_regular, replacing

HISTORY = "history.jsonl.gz"
# Ours: the newest 30,000 lines or more, of some 2 kB, which take a tenth of it; a longer record is held in part.
MAX_BYTES = 64 * 2**20


class Record(NamedTuple):
    """The first `size` bytes of a run's metrics.jsonl: what was logged until now, while later lines are added."""

    path: Path
    size: int

    @staticmethod
    def until_now(path: Path) -> "Record | None":
        """All that the file holds; None where there is no file."""
        return Record(path, path.stat().st_size) if path.is_file() else None


def write_history(folder: Path, record: Record) -> None:
    """Writes the newest lines of a record, at most MAX_BYTES of them, into a checkpoint's folder."""
    with open_regular(record.path) as file:
        # One byte more, to see whether a line begins at the bound.
        cut = record.size > MAX_BYTES
        file.seek(record.size - MAX_BYTES - 1 if cut else 0)
        content = file.read(record.size - file.tell())
    if cut:
        content = content[content.find(b"\n") + 1 :]
    with replacing(folder / HISTORY, "wb") as file:
        file.write(gzip.compress(content, compresslevel=1, mtime=0))


def read_history(folder: Path) -> bytes:
    """The lines that a checkpoint's folder holds; b"" for one of before 0.6.0 and for a damaged copy."""
    try:
        with open_regular(folder / HISTORY) as file, gzip.open(file) as lines:
            return lines.read(MAX_BYTES)
    except (UserError, OSError, EOFError, zlib.error):
        return b""
