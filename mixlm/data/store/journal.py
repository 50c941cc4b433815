"""Files that grow in parts: each part is on the disk, with its checksum in a journal, before the next begins.

So a writer that is killed in the middle goes on where its last whole part ends, and the files come out the same.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixlm import files
from mixlm.errors import UserError
from mixlm.files import open_append, open_in_place, replacing
from mixlm.paths import within

JOURNAL = "journal.jsonl"
# Ours: some two million tokens, a few seconds of tokenising, are lost by a kill; a part costs two or three fsyncs.
PART_BYTES = 4 * 2**20


class Tokenized(NamedTuple):
    """One document as the builder takes it: its token ids, the size of its text in UTF-8 bytes.

    `inputs` is how many of the first tokens are a supervised example's inputs; the others are its targets.
    """

    tokens: np.ndarray
    text_bytes: int
    inputs: int | None = None


Documents = Callable[[int], Iterable[Tokenized]]
"""A split's documents from a number on, so that what is there need not be made again."""


@dataclass(frozen=True)
class Part:
    """Progress of a split after a part: counts from its beginning, and the SHA-256 of what it adds to each file."""

    split: str
    documents: int
    tokens: int
    text_bytes: int
    sums: Mapping[str, str]
    last: bool


class Journal:
    """The parts that are whole, a line each, in the folder of the files that they are parts of.

    `identity` says what is being written: a journal of something else is begun anew, and its files with it.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], dtype: np.dtype):
        self.path, self.dtype = folder / JOURNAL, dtype
        self._reached: dict[str, Part] = {}
        lines = self._whole_lines()
        kept = 1
        if lines and lines[0] == dict(identity):
            for entry in lines[1:]:
                try:
                    part = Part(**entry)
                    whole = self._is_whole(part)
                except (TypeError, ValueError, KeyError, AttributeError):
                    break  # a line with its checksum that this version would not write
                if not whole:
                    break
                self._reached[part.split] = part
                kept += 1
        # What follows the last whole part is of no use.
        with replacing(self.path) as file:
            file.writelines(_line(entry) for entry in [dict(identity), *lines[1:kept]])

    @property
    def documents(self) -> int:
        """The number of documents in complete parts, over all splits."""
        return sum(part.documents for part in self._reached.values())

    def reached(self, split: str) -> Part:
        """The split's last whole part; one of nothing where it has none."""
        return self._reached.get(split, Part(split, 0, 0, 0, {}, False))

    def add(self, part: Part) -> None:
        """Writes down a part whose files are on the disk."""
        with open_append(self.path) as file:
            file.write(_line(asdict(part)))
            file.flush()
            os.fsync(file.fileno())
        self._reached[part.split] = part

    def _whole_lines(self) -> list[dict[str, Any]]:
        """The lines as far as each has its checksum; none where the file is missing or no regular one."""
        found: list[dict[str, Any]] = []
        with contextlib.suppress(UserError), files.open_regular(self.path) as file:
            for line in files.read_lines(file, str(self.path)):
                checksum, _, text = line.rstrip(b"\r\n").partition(b" ")
                if hashlib.sha256(text).hexdigest().encode() != checksum:
                    break
                found.append(files.parse_json(text, str(self.path), dict))
        return found

    def _is_whole(self, part: Part) -> bool:
        begun = self.reached(part.split)
        for name, checksum in part.sums.items():
            first, last = (_size(name, state, self.dtype) for state in (begun, part))
            try:
                with files.open_regular(within(self.path.parent, name)) as file:
                    file.seek(first)
                    if hashlib.sha256(file.read(last - first)).hexdigest() != checksum:
                        return False
            except (OSError, UserError):
                return False
        return True


def write_split(journal: Journal, name: str, documents: Documents) -> Part:
    """Writes the documents of a split that are not there yet; the files are those of one uninterrupted writing.

    They are `NAME.tokens`, `NAME.offsets` (int64, where each document begins, and where the last ends) and, for
    supervised examples, `NAME.targets` (int64, where the targets of each begin). One document is in memory at a time.
    """
    begun = journal.reached(name)
    if begun.last:
        return begun
    writer = _Writer(journal, begun)
    try:
        writer.begin()
        for document in documents(begun.documents):
            writer.add(document)
        return writer.commit(last=True)
    finally:
        writer.close()


class _Writer:
    """A split's files from the end of a whole part on."""

    def __init__(self, journal: Journal, begun: Part):
        self.journal, self.part = journal, begun
        self.documents, self.tokens, self.text_bytes = begun.documents, begun.tokens, begun.text_bytes
        self.files: dict[str, Any] = {}
        self.hashes: dict[str, Any] = {}
        self.pending = 0

    def begin(self) -> None:
        split, sums = self.part.split, self.part.sums
        for name in sums or (f"{split}.tokens", f"{split}.offsets"):
            self._open(name)
        if not sums:
            self._write("offsets", np.zeros(1, "<i8"))

    def add(self, document: Tokenized) -> None:
        split, dtype = self.part.split, self.journal.dtype
        if len(document.tokens) and document.tokens.max() > np.iinfo(dtype).max:
            raise ValueError(f"token id {document.tokens.max()} does not fit into {dtype}")
        if document.inputs is not None and not self.documents:
            self._open(f"{split}.targets")
        if (document.inputs is not None) != (f"{split}.targets" in self.files):
            raise ValueError(f"some documents of {split} have inputs, and others have none")
        if document.inputs is not None:
            self._write("targets", np.asarray([self.tokens + document.inputs], "<i8"))
        self._write("tokens", document.tokens.astype(dtype))
        self.tokens += len(document.tokens)
        self._write("offsets", np.asarray([self.tokens], "<i8"))
        self.documents += 1
        self.text_bytes += document.text_bytes
        if self.pending >= PART_BYTES:
            self.commit(last=False)

    def commit(self, last: bool) -> Part:
        """Brings everything so far to the disk, and then into the journal."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        sums = {name: hashed.hexdigest() for name, hashed in self.hashes.items()}
        self.part = Part(self.part.split, self.documents, self.tokens, self.text_bytes, sums, last)
        self.journal.add(self.part)
        self.hashes = {name: hashlib.sha256() for name in self.files}
        self.pending = 0
        return self.part

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def _open(self, name: str) -> None:
        path = within(self.journal.path.parent, name)
        if not self.part.sums:
            path.unlink(missing_ok=True)  # of no whole part, whatever it is
        file = os.fdopen(open_in_place(path), "r+b")  # closed by close
        file.truncate(_size(name, self.part, self.journal.dtype))
        file.seek(0, os.SEEK_END)
        self.files[name], self.hashes[name] = file, hashlib.sha256()

    def _write(self, suffix: str, values: np.ndarray) -> None:
        name, content = f"{self.part.split}.{suffix}", values.tobytes()
        self.files[name].write(content)
        self.hashes[name].update(content)
        self.pending += len(content)


def _size(name: str, part: Part, dtype: np.dtype) -> int:
    """The size in bytes of a file up to the end of a part."""
    if not part.sums:
        return 0
    entries = {"tokens": part.tokens * dtype.itemsize, "offsets": 8 * (part.documents + 1)}
    return {**entries, "targets": 8 * part.documents}[name.rpartition(".")[2]]


def _line(entry: Mapping[str, Any]) -> str:
    text = json.dumps(entry, sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}\n"
