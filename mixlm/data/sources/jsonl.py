"""JSON lines: a document in one field of each object."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mixlm.data.sources.base import BOUND, check_document
from mixlm.data.sources.files import RecordFiles
from mixlm.data.sources.packed import opened
from mixlm.errors import UserError, nearest
from mixlm.files import parse_json, read_lines


@dataclass(frozen=True)
class JsonLines(RecordFiles):
    """A file, or a folder of files, with one JSON object on each line; blank lines are passed over.

    Raises UserError that names file and line for what is no object with the text `feature`.
    """

    endings: ClassVar[tuple[str, ...]] = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")

    def read(self, path: Path) -> Iterator[str]:
        """The documents of one file, line by line."""
        for number, line in enumerate(_lines(path, self.max_document_bytes), 1):
            if line.strip():
                yield self._document(line, f"Line {number} of {str(path)!r}")

    def _document(self, line: bytes, where: str) -> str:
        found: Any = parse_json(line, where)
        if not isinstance(found, dict):
            raise UserError(f"{where} is no JSON object with a {self.feature!r} in it.")
        if self.feature not in found:
            keys = ", ".join(map(repr, found)) or "nothing"
            raise UserError(f"{where} has no {self.feature!r}, only {keys}.{nearest(self.feature, found)}")
        if not isinstance(found[self.feature], str):
            raise UserError(
                f"{self.feature!r} in line {where[5:]} is no text but {type(found[self.feature]).__name__}."
            )
        check_document(found[self.feature], where, self.max_document_bytes)
        # JSON can spell half a character, which UTF-8 cannot.
        return found[self.feature].encode("utf-8", "replace").decode("utf-8")


def _lines(path: Path, limit: int) -> Iterator[bytes]:
    with opened(path) as file:
        yield from read_lines(file, repr(str(path)), limit, BOUND)
