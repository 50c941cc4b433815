"""Packed files: gzip and Zstandard, read as a stream; one that is torn is an error that names it."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixlm.errors import UserError
from mixlm.files import open_regular

# What a packed text's name ends in, behind the ending of the text.
PACKED = (".gz", ".zst")
# Ours: a block of 4 bytes may stand for 128 KiB, so that so much of a file unpacks to 64 MiB at most.
_PIECE = 2048
_CHUNK = 2**20


def is_packed(path: Path) -> bool:
    """Returns True for a name that ends in .gz or .zst."""
    return path.suffix.lower() in PACKED


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The content of a regular file as a binary stream, unpacked where the name says that it is packed.

    Raises UserError for what is no whole archive, or cannot be read, once that is met in reading.
    """
    kind = path.suffix.lower()
    try:
        with open_regular(path) as file:
            if kind == ".gz":
                yield gzip.GzipFile(fileobj=file)
            elif kind == ".zst":
                yield io.BufferedReader(_Zstandard(file, path), _CHUNK)
            else:
                yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{str(path)!r} is no whole gzip file: {error}.") from None
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}.") from None


def content_size(path: Path) -> int:
    """The number of bytes of a file's content; a packed one is read for it."""
    if not is_packed(path):
        return path.stat().st_size
    with opened(path) as file:
        return sum(map(len, iter(lambda: file.read(_CHUNK), b"")))


class _Zstandard(io.RawIOBase):
    """The content of all frames of a Zstandard file; the library itself takes a torn frame for a whole one."""

    def __init__(self, file: Any, path: Path):
        self._zstandard = import_zstandard()
        self._file, self._path = file, path
        self._frame: Any = None  # the frame that is read, None between two
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            if not (piece := self._file.read(_PIECE)):
                if self._frame is not None:
                    raise self._torn("it ends within a frame")
                return 0
            self._rest = memoryview(self._unpacked(piece))
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def _unpacked(self, piece: bytes) -> bytes:
        content = []
        while piece:
            try:
                if self._frame is None:
                    self._frame = self._zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
                content.append(self._frame.decompress(piece))
            except self._zstandard.ZstdError as error:
                raise self._torn(str(error)) from None
            piece = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame
        return b"".join(content)

    def _torn(self, reason: str) -> UserError:
        return UserError(f"{str(self._path)!r} is no whole Zstandard file: {reason}.")


def import_zstandard() -> Any:
    """The library `zstandard`; UserError where it is not installed."""
    try:
        import zstandard
    except ImportError:
        raise UserError("A .zst file needs the library zstandard: pip install 'mixlm[data]'.") from None
    return zstandard
