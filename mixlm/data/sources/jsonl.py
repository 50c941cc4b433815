"""Corpora that others have prepared: JSON lines, and data sets of TensorFlow Datasets that lie on the disk."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixlm.data.sources.base import digest_files, tidy
from mixlm.data.sources.file_kinds import files_of_kind
from mixlm.data.sources.holdout import by_hash
from mixlm.errors import UserError, nearest


@dataclass(frozen=True)
class JsonLines:
    """A file, or a folder of .jsonl, .jsonl.gz and .json.gz files, with one JSON object for each document on a line.

    The document is the object's `feature`; blank ones are passed over. A document is held out by a hash of its text, so
    that equal documents are on one side and memory does not grow with the corpus: validation is about
    `validation_fraction` of the documents, and at least one document is on each side. Raises UserError that names
    file and line for what is no such object, and for a corpus of fewer than two different documents.
    """

    path: str = field(repr=False)  # where the text lies; what it says has a fingerprint
    feature: str = "text"
    validation_fraction: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"JsonLines.validation_fraction is between 0 and 1, not {self.validation_fraction}.")

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split in the order of the files' names and of the lines."""
        return by_hash(self._all, self.validation_fraction, split, self.path)

    def fingerprint(self) -> str:
        """SHA-256 over all files, their names and the rule of the split; not over where they lie."""
        files, folder = files_of_kind(self.path, "jsonl"), Path(self.path).expanduser()
        names = [path.relative_to(folder).as_posix() for path in files if len(files) > 1]
        return digest_files(files, ["jsonl", self.feature, self.validation_fraction, *names])

    def _all(self) -> Iterator[str]:
        for path in files_of_kind(self.path, "jsonl"):
            for number, line in enumerate(_lines(path), 1):
                if line.strip() and (document := tidy(self._document(line, f"Line {number} of {str(path)!r}"))):
                    yield document

    def _document(self, line: bytes, where: str) -> str:
        try:
            found = json.loads(line)
        except UnicodeDecodeError:
            raise UserError(f"{where} is not UTF-8.") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not JSON: {error.msg} at column {error.colno}.") from None
        if not isinstance(found, dict):
            raise UserError(f"{where} is no JSON object with a {self.feature!r} in it.")
        if self.feature not in found:
            keys = ", ".join(map(repr, found)) or "nothing"
            raise UserError(f"{where} has no {self.feature!r}, only {keys}.{nearest(self.feature, found)}")
        if not isinstance(found[self.feature], str):
            raise UserError(
                f"{self.feature!r} in line {where[5:]} is no text but {type(found[self.feature]).__name__}."
            )
        # JSON can spell half a character, which UTF-8 cannot.
        return found[self.feature].encode("utf-8", "replace").decode("utf-8")


def _lines(path: Path) -> Iterator[bytes]:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            yield from file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{str(path)!r} is no whole gzip file: {error}.") from None
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
