"""Documents of plain text: a folder of .txt files, or one file cut at blank lines."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mixlm.data.sources.base import check_split, digest_files, normalize_whitespace
from mixlm.data.sources.files import TextSource
from mixlm.errors import UserError

# Ours: one file is cut into at least about 40 documents, of at most about 8 kB, at its blank lines.
FILE_DOCUMENTS, DOCUMENT_BYTES = 40, 8192


# Ours: without a blank line for this many times the wished length, a document ends at any line's end.
MAX_STRETCH = 4


LEAST_CHARACTERS = 100  # Ours: less text than this can neither train nor test anything.


@dataclass(frozen=True)
class TextFiles(TextSource):
    """Your own text: a folder in which each .txt file is a document, or one UTF-8 file that is cut at blank lines.

    Validation holds about `validation_fraction` of the bytes in whole documents, chosen by a hash of the file's name
    (in a folder) or of the document (in one file), with at least one document on each side; a file that cannot be cut
    gives its end. Raises UserError for a missing, empty or non-UTF-8 file and for too little text.
    """

    validation_fraction: float = 0.05
    endings: ClassVar[tuple[str, ...]] = (".txt",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"TextFiles.validation_fraction is between 0 and 1, not {self.validation_fraction}.")

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split in the order of the file, or of the files' names."""
        files = self.files()
        if len(files) == 1:
            yield from self._documents_of_one_file(files[0], check_split(split))
            return
        names = [path.name.encode() for path in files]
        chosen = _held_out(names, [path.stat().st_size for path in files], self.validation_fraction)
        for position, path in enumerate(files):
            if (position in chosen) == (check_split(split) == "validation"):
                yield _document(path)

    def all_documents(self) -> Iterator[str]:
        """Every file as one document, in the order of the files' names."""
        for path in self.files():
            yield _document(path)

    def fingerprint(self) -> str:
        """SHA-256 over all files, their names and the rule of the split; not over where they lie."""
        files = self.files()
        rule = ["text", self.validation_fraction, FILE_DOCUMENTS, DOCUMENT_BYTES, MAX_STRETCH]
        return digest_files(files, [*rule, *(path.name for path in files if len(files) > 1)])

    def files(self) -> list[Path]:
        """The file itself, or a folder's .txt files; UserError where one is empty."""
        files = super().files()
        for file in files:
            if file.stat().st_size == 0:
                raise UserError(f"The text file {str(file)!r} is empty.")
        return files

    def _documents_of_one_file(self, path: Path, split: str) -> Iterator[str]:
        size = path.stat().st_size
        hashes, sizes = [], []
        for document in _cut(_lines(path), size):
            hashes.append(hashlib.sha256(document.encode()).digest())
            sizes.append(len(document.encode()))
        if sum(sizes) < LEAST_CHARACTERS:
            raise UserError(
                f"The text file {str(path)!r} holds {sum(sizes)} bytes of text, which is too little to train on."
            )
        if len(sizes) == 1:
            yield _side_of_tail(next(_cut(_lines(path), size)), self.validation_fraction, split)
            return
        chosen = _held_out(hashes, sizes, self.validation_fraction)
        for position, document in enumerate(_cut(_lines(path), size)):
            if (position in chosen) == (split == "validation"):
                yield document


def _lines(path: Path) -> Iterator[str]:
    """Decoded lines, read one at a time so that a file may be larger than memory."""
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                where = offset + error.start
                raise UserError(
                    f"The text file {str(path)!r} is not UTF-8: byte {where} (0x{line[error.start]:02x}) begins no"
                    " character; convert it first."
                ) from None
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


def _held_out(keys: list[bytes], sizes: list[int], fraction: float) -> set[int]:
    """Positions for validation: by hash, as long as they fit into `fraction` of the bytes; at least the smallest."""
    order = sorted(range(len(keys)), key=lambda position: (hashlib.sha256(keys[position]).digest(), position))
    budget = fraction * sum(sizes)
    chosen: set[int] = set()
    for position in order:
        if sizes[position] <= budget and len(chosen) < len(keys) - 1:
            chosen.add(position)
            budget -= sizes[position]
    return chosen or {min(order, key=lambda position: sizes[position])}


def _side_of_tail(document: str, fraction: float, split: str) -> str:
    cut = min(max(round(len(document) * (1 - fraction)), 1), len(document) - 1)
    last_space = max(document.rfind(" ", 1, cut), document.rfind("\n", 1, cut))
    cut = last_space if last_space > 0 else cut
    return document[cut:].strip() if split == "validation" else document[:cut].strip()


def _document(path: Path) -> str:
    document = normalize_whitespace("".join(_lines(path)))
    if not document:
        raise UserError(f"The text file {str(path)!r} holds nothing but blanks.")
    return document
