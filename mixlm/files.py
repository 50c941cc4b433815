"""Files: only regular ones are read, JSON and lines within bounds; what is written is whole and follows no link."""

import io
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO, TypeVar

from mixlm.errors import UserError

T = TypeVar("T")

# Ours: far more than any file of a run has, and far less than memory.
MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_DEPTH = 64
MAX_LINE_BYTES = 64 * 2**20
MAX_FLOAT_BITS = 1024  # a float ends below 2^1024

_CHUNK_BYTES = 2**20
_UNREADABLE = re.compile("[\0\ud800-\udfff]")

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_JSON_NAMES: dict[type, str] = {dict: "object", list: "array", str: "string"}


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a regular file for reading; UserError for a pipe, a device, a folder, or what cannot be read.

    A pipe without a writer would wait for ever, so it is opened without waiting, and looked at before it is read.
    """
    try:
        return open(path, "rb", opener=_open_regular)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{_shown(path)} cannot be read: {_reason(error)}.") from None


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise UserError(f"{_shown(path)} is {_KINDS.get(kind, 'no file')}, and only regular files are read.")
    return descriptor


def read_bytes(path: str | os.PathLike[str], limit: int = MAX_JSON_BYTES) -> bytes:
    """The content of a regular file of at most `limit` bytes; UserError beyond."""
    with open_regular(path) as file:
        try:
            content = read_some(file, limit + 1)
        except OSError as error:
            raise UserError(f"{_shown(path)} cannot be read: {_reason(error)}.") from None
    if len(content) > limit:
        raise UserError(f"{_shown(path)} has more than {limit:,} bytes, which is more than is read at once.")
    return content


def read_some(file: Any, most: int) -> bytes:
    """At most so many bytes; Python's own `read` would take memory for all of them beforehand."""
    chunks, size = [], 0
    while size < most and (chunk := file.read(min(_CHUNK_BYTES, most - size))):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


def read_text(path: str | os.PathLike[str], limit: int = MAX_JSON_BYTES) -> str:
    """The text of a regular file in UTF-8, without its byte order mark; UserError names the byte at fault."""
    return decode(read_bytes(path, limit), _shown(path))


def decode(content: bytes, where: str) -> str:
    """UTF-8 without a byte order mark; UserError that begins with `where` and names the byte at fault, NUL as well."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8: byte {error.start} (0x{content[error.start]:02x}) begins no character; convert it"
            " first."
        ) from None
    check_text(text, where)
    return text.removeprefix("\ufeff")


def check_text(text: str, where: str) -> None:
    """Raises UserError, which begins with `where` and names the byte, for text that no tokenizer reads.

    That is NUL, of which SentencePiece makes `<unk>` without a word, and half of a surrogate pair, which JSON can
    spell and UTF-8 cannot.
    """
    found = _UNREADABLE.search(text)
    if found is None:
        return
    before = text[: found.start()]
    line = len(split_lines(f"{before}."))
    place = f"byte {len(before.encode())}" + (f" in line {line}" if line > 1 else "")
    what = "a NUL character" if found[0] == "\0" else f"half of a surrogate pair, U+{ord(found[0]):04X},"
    raise UserError(f"{where} holds {what} at {place}, which no tokenizer reads: take it out.")


def split_lines(text: str) -> list[str]:
    """Lines that end in LF, CR LF or CR alone; U+2028, U+0085, VT and FF are characters like any other."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_lines(file: Any, where: str, limit: int = MAX_LINE_BYTES, bound: str = "a line may have") -> Iterator[bytes]:
    """Lines of a binary file, each with its end: LF, CR LF or CR alone.

    Raises UserError that begins with the line's number and names `where` for a line of more than `limit` bytes, before
    it is whole in memory; the sentence ends with `bound`, which may name the setting of the limit.
    """
    number, rest = 0, b""
    while chunk := file.read(_CHUNK_BYTES):
        rest += chunk
        if rest.endswith(b"\r"):
            rest += file.read(1)  # an LF that belongs to it
        pieces = rest.splitlines(keepends=True)
        rest = b"" if pieces[-1].endswith((b"\n", b"\r")) else pieces.pop()
        for line in pieces:
            number += 1
            _check_length(line, limit, number, where, bound)
            yield line
        _check_length(rest, limit, number + 1, where, bound)
    if rest:
        yield rest


def _check_length(line: bytes, limit: int, number: int, where: str, bound: str) -> None:
    if len(line) > limit:
        raise UserError(f"Line {number} of {where} has more than {limit:,} bytes, which is more than {bound}.")


def parse_json(text: str | bytes, where: str, of: type[T] = object) -> T:  # type: ignore[assignment]
    """Reads JSON of type `of`; UserError that begins with `where` for what is no JSON, too deep, or of another type."""
    try:
        found = json.loads(text)
        if _deeper(found, MAX_JSON_DEPTH):
            raise RecursionError
    except UnicodeDecodeError:
        raise UserError(f"{where} is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg} at column {error.colno}.") from None
    except RecursionError:
        raise UserError(f"{where} is nested more than {MAX_JSON_DEPTH} levels deep, so it is not read.") from None
    except ValueError:
        raise UserError(f"{where} holds a number of too many digits, so it is not read.") from None
    if not isinstance(found, of):
        raise UserError(f"{where} is no JSON {_JSON_NAMES.get(of, of.__name__)}.")
    return found


def read_json(path: str | os.PathLike[str], of: type[T] = dict) -> T:  # type: ignore[assignment]
    """Reads a regular file of JSON of type `of`, by default an object; UserError names the file."""
    return parse_json(read_text(path), _shown(path), of)


def is_number(value: object) -> bool:
    """True for a JSON number that a float can hold."""
    return type(value) is float or (type(value) is int and value.bit_length() < MAX_FLOAT_BITS)


def _deeper(value: Any, depth: int) -> bool:
    """True where lists and objects are nested more than `depth` deep, found without recursion."""
    level = [value]
    for _ in range(depth + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return False
        level = [child for each in level for child in (each.values() if isinstance(each, dict) else each)]
    return True


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that takes the place of `path` once the block has ended well; else nothing is changed.

    It is written beside `path` under a name that nobody can guess, is new, and is on disk before it is renamed. Where
    `path` is a link, the link is replaced and its target untouched. Text is UTF-8 with LF.
    """
    draft = path.with_name(f".{path.name[:32]}.{secrets.token_hex(8)}.draft")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with open(draft, mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def open_append(path: Path) -> TextIO:
    """Opens a text file to add lines, and makes it where it is missing; UserError for a link or no regular file."""
    try:
        descriptor = open_in_place(path, os.O_WRONLY | os.O_APPEND)
    except OSError as error:
        raise UserError(f"{_shown(path)} cannot be written: {_reason(error)}.") from None
    return os.fdopen(descriptor, "a", encoding="utf-8", newline="\n")


def open_in_place(path: Path, flags: int = os.O_RDWR) -> int:
    """A descriptor of a file that is written where it is, and made where it is missing, such as a lock.

    Raises UserError for a link or no regular file, and OSError where the disk refuses.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError:
        if path.is_symlink():
            raise UserError(f"{_shown(path)} cannot be written: it is a link.") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{_shown(path)} cannot be written: it is no regular file.")
    return descriptor


def _shown(path: object) -> str:
    """A path in quotation marks, bytes that are not UTF-8 as escapes, so that it can be printed."""
    return repr(os.fsdecode(path))  # type: ignore[arg-type]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
