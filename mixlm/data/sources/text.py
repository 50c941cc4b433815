"""Documents of plain text: a folder of .txt files, or one file cut at blank lines."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from mixlm.data.sources.base import BOUND, check_split, digest_files, normalize_whitespace
from mixlm.data.sources.files import TextSource
from mixlm.data.sources.holdout import by_hash, by_size
from mixlm.data.sources.kinds import begins_as, kinds, plain_text
from mixlm.data.sources.packed import content_size, opened
from mixlm.data.store.fingerprint_cache import is_settled, stat_key
from mixlm.errors import UserError, nearest
from mixlm.files import open_regular, read_lines

# Ours: one file is cut into at least about 40 documents, of at most about 8 kB, at its blank lines.
FILE_DOCUMENTS, DOCUMENT_BYTES = 40, 8192


# Ours: without a blank line for this many times the wished length, a document ends at any line's end.
MAX_STRETCH = 4


LEAST_CHARACTERS = 100  # Ours: less text than this can neither train nor test anything.


# Ours: bytes of a paragraph whose copies are held out with it; headings, rulers and short replies recur in any text.
LEAST_PARAGRAPH = 64

HOLD_OUT_BY = ("content", "hash", "name")


@dataclass(frozen=True)
class TextFiles(TextSource):
    """Your own text: a folder in which each .txt file is a document, or one UTF-8 file that is cut at blank lines.

    A file may be packed, as .txt.gz or .txt.zst.

    Validation holds about `validation_fraction` of the bytes in whole documents, chosen by a hash of their text, so
    that equal documents are on one side; at least one is on each side, and a file that cannot be cut gives its end. In
    one file the paragraphs of held-out documents are held out wherever else they stand.
    `hold_out_by="hash"` is the rule of JSON lines and other records: each document by the hash of its text, so that the
    same documents are the same splits, whatever files they lie in.
    `hold_out_by="name"` is the rule before version 0.6.0, for its runs: the hash of a file's name in a folder, and of
    each document on its own in one file. Raises UserError for a missing, empty or non-UTF-8 file, for too little text,
    and where all documents are equal.
    """

    validation_fraction: float = 0.05
    hold_out_by: str = field(default="content", repr=False)  # its tokens have a fingerprint
    endings: ClassVar[tuple[str, ...]] = (".txt", ".txt.gz", ".txt.zst")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"TextFiles.validation_fraction is between 0 and 1, not {self.validation_fraction}.")
        if self.hold_out_by not in HOLD_OUT_BY:
            close = nearest(str(self.hold_out_by), HOLD_OUT_BY)
            raise UserError(f"HOLD_OUT_BY is 'content', 'hash' or 'name', not {self.hold_out_by!r}.{close}")

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split in the order of the file, or of the files' names."""
        held_out = check_split(split) == "validation"
        files, limit = self.files(), self.max_document_bytes
        keys, sizes = _measured(files, limit)
        if len(files) == 1 and sum(sizes) < LEAST_CHARACTERS:
            raise UserError(
                f"The text file {str(files[0])!r} holds {sum(sizes)} bytes of text, which is too little to train on."
            )
        if len(files) == len(keys) == 1:
            yield _side_of_tail(next(_documents(files, limit)), self.validation_fraction, split)
            return
        if self.hold_out_by == "hash":
            yield from by_hash(lambda: _documents(files, limit), self.validation_fraction, split, self.path)
            return
        chosen = self._held_out(files, keys, sizes)
        if len(files) == 1:
            known = _long_paragraphs(files, limit, chosen) if self.hold_out_by == "content" else frozenset()
            found = _side(_documents(files, limit), chosen, known, held_out)
            if (first := next(found, None)) is None:
                raise UserError(f"{self.path!r} holds fewer than two different paragraphs to train and to test on.")
            yield first
            yield from found
        else:
            yield from _documents([file for at, file in enumerate(files) if (at in chosen) == held_out], limit, False)

    def _held_out(self, files: Sequence[Path], keys: Sequence[bytes], sizes: Sequence[int]) -> set[int]:
        if self.hold_out_by == "content":
            return by_size(keys, sizes, self.validation_fraction, self.path)
        if len(files) > 1:
            keys, sizes = [path.name.encode() for path in files], [content_size(path) for path in files]
        return by_size(keys, sizes, self.validation_fraction, self.path, apart=range(len(keys)))

    def all_documents(self) -> Iterator[str]:
        """Every file as one document, in the order of the files' names."""
        return _documents(self.files(), self.max_document_bytes, cut=False)

    def fingerprint(self) -> str:
        """SHA-256 over all files, their names and the rule of the split; not over where they lie."""
        files = self.files()
        rule = ["text", self.validation_fraction, FILE_DOCUMENTS, DOCUMENT_BYTES, MAX_STRETCH]
        by = [self.hold_out_by] if self.hold_out_by != "name" else []
        one = [LEAST_PARAGRAPH] if self.hold_out_by == "content" and len(files) == 1 else []
        return digest_files(files, [*rule, *by, *one, *(path.name for path in files if len(files) > 1)])

    def files(self) -> list[Path]:
        """The file itself, or a folder's .txt files; UserError where one is empty, or is no text."""
        files = super().files()
        for file in files:
            if file.stat().st_size == 0:
                with open_regular(file) as content:
                    what = "has no size, as files of /proc: copy it first" if content.read(1) else "is empty"
                raise UserError(f"The text file {str(file)!r} {what}.")
            if not self.reads(file.name):
                plain_text(file, kinds())
        return files


def _measured(files: Sequence[Path], limit: int) -> tuple[list[bytes], list[int]]:
    """The SHA-256 and the size in bytes of each document; text that has not changed since is not read again."""
    facts = [stat_key(path) for path in files]
    measure = _measure if all(map(is_settled, facts)) else _measure.__wrapped__
    return measure(tuple(files), tuple(map(tuple, facts)), limit)


@lru_cache(maxsize=8)
def _measure(files: tuple[Path, ...], facts: object, limit: int) -> tuple[list[bytes], list[int]]:
    del facts
    keys, sizes = [], []
    for document in _documents(files, limit):
        content = document.encode()
        keys.append(hashlib.sha256(content).digest())
        sizes.append(len(content))
    return keys, sizes


def _documents(files: Sequence[Path], limit: int, cut: bool = True) -> Iterator[str]:
    """The documents of files: each whole, or where there is one file and `cut`, its parts."""
    if cut and len(files) == 1:
        yield from cut_file(files[0], limit)
    else:
        for path in files:
            yield _document(path, limit)


def _long_paragraphs(files: Sequence[Path], limit: int, chosen: Set[int]) -> frozenset[bytes]:
    """Digests of the paragraphs of the chosen documents, without those that recur in any text."""
    return frozenset(
        _digest(part)
        for position, document in enumerate(_documents(files, limit))
        if position in chosen
        for part in document.split("\n\n")
        if len(part.encode()) >= LEAST_PARAGRAPH
    )


def _side(documents: Iterable[str], chosen: Set[int], known: Set[bytes], held_out: bool) -> Iterator[str]:
    """The documents of one side: the chosen ones are held out, and of all others the `known` paragraphs."""
    for position, document in enumerate(documents):
        if position in chosen or not known:
            if (position in chosen) == held_out:
                yield document
            continue
        parts = [part for part in document.split("\n\n") if (_digest(part) in known) == held_out]
        if parts:
            yield "\n\n".join(parts)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def cut_file(path: Path, limit: int) -> Iterator[str]:
    """The documents of one file that is cut at blank lines, or where there is none for long at a line's end."""
    yield from _cut(_lines(path, limit), content_size(path))


def _document(path: Path, limit: int) -> str:
    if content_size(path) > limit:
        raise UserError(
            f"The text file {str(path)!r} is one document of more than {limit:,} bytes, which is more than {BOUND}."
        )
    document = normalize_whitespace("".join(_lines(path, limit)))
    if not document:
        raise UserError(f"The text file {str(path)!r} holds nothing but blanks.")
    return document


def _lines(path: Path, limit: int) -> Iterator[str]:
    """Decoded lines, read one at a time so that a file may be larger than memory; none is longer than `limit` bytes."""
    offset, shown = 0, f"The text file {str(path)!r}"
    with opened(path) as file:
        for line in read_lines(file, repr(str(path)), limit, BOUND):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                where = offset + error.start
                raise UserError(
                    f"{shown} is not UTF-8: byte {where} (0x{line[error.start]:02x}) begins no character; convert it"
                    f" first.{begins_as(path)}"
                ) from None
            if "\0" in text:
                raise UserError(
                    f"{shown} has a NUL, its byte {offset + line.index(0)}, so it is no text.{begins_as(path)}"
                )
            yield text.removeprefix("\ufeff") if offset == 0 else text
            offset += len(line)


def _cut(lines: Iterable[str], size: int) -> Iterator[str]:
    """Documents of whole paragraphs: `size` bytes give some 40 of them, or more where they would pass 8 kB."""
    wished = min(max(size // FILE_DOCUMENTS, 1), DOCUMENT_BYTES)
    pending: list[str] = []
    length = 0
    for line in lines:
        pending.append(line)
        length += len(line.encode())
        if (length >= wished and not line.strip()) or length >= MAX_STRETCH * wished:
            if document := normalize_whitespace("".join(pending)):
                yield document
            pending, length = [], 0
    if document := normalize_whitespace("".join(pending)):
        yield document


def _side_of_tail(document: str, fraction: float, split: str) -> str:
    cut = min(max(round(len(document) * (1 - fraction)), 1), len(document) - 1)
    last_space = max(document.rfind(" ", 1, cut), document.rfind("\n", 1, cut))
    cut = last_space if last_space > 0 else cut
    return document[cut:].strip() if split == "validation" else document[:cut].strip()
