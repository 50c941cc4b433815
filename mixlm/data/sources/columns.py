"""Text in a column of Arrow record batches, as Parquet files and Hugging Face data sets hold it."""

import re
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlm.data.sources.files import RecordFiles
from mixlm.errors import UserError, nearest
from mixlm.files import open_regular
from mixlm.paths import local

ROWS = 256  # Ours: read at once, so that memory does not grow with the file.
FEATURE = "text"  # the column, where none is chosen
SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


@dataclass(frozen=True)
class ColumnFiles(RecordFiles):
    """Files of a table, with a document in each row of the column `feature`; reading needs pyarrow.

    Where no column is chosen and none is called `text`, it is the only column of strings. A row without a value is
    passed over, as a blank one is. Files of a folder that are named after a split are that split. Raises UserError
    that names the columns where there is no such one, and for a file that is damaged or ends early.
    """

    @abstractmethod
    def batches(self, file: Any, pyarrow: Any) -> tuple[Any, Any]:
        """The schema of an open file, and a function from a column's name to its record batches of that column."""

    def split_of(self, path: Path) -> str | None:
        """The split of a file by the first word of its name, or of its folder's, as data sets of the hub have them."""
        parts = path.relative_to(local(self.path, "TEXT")).parts
        words = [re.split(r"[-_.]", part.lower())[0] for part in reversed(parts)]
        return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)

    def read(self, path: Path) -> Iterator[str]:
        """The documents of one file, row by row."""
        pyarrow, number = import_pyarrow(), 0
        with _damaged(path, pyarrow), open_regular(path) as file:
            schema, batches = self.batches(file, pyarrow)
            column = chosen(schema, self.feature, f"{str(path)!r}", pyarrow)
            for batch in batches(column):
                for value in batch.column(column):
                    number += 1
                    if (text := _text(value, f"Row {number} of {str(path)!r}", column)) is not None:
                        yield text


def chosen(schema: Any, feature: str, where: str, pyarrow: Any) -> str:
    """The column that a feature names, or the only one of strings where `text` is asked for and not there."""
    strings = [field.name for field in schema if _is_text(field.type, pyarrow)]
    if feature in strings:
        return feature
    if feature in schema.names:
        raise UserError(f"The column {feature!r} of {where} is no text but {schema.field(feature).type}.")
    if feature == FEATURE and len(strings) == 1:
        return strings[0]
    columns = ", ".join(map(repr, schema.names)) or "nothing"
    which = f"; say which with --gin.TEXT_FEATURE={strings[0]}" if feature == FEATURE and strings else ""
    raise UserError(f"{where} has no column {feature!r}, only {columns}{which}.{nearest(feature, schema.names)}")


def _is_text(kind: Any, pyarrow: Any) -> bool:
    types = pyarrow.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type, pyarrow)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _text(value: Any, where: str, column: str) -> str | None:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8: byte {error.start} of its {column!r}.") from None


@contextmanager
def _damaged(path: Path, pyarrow: Any) -> Iterator[None]:
    """Turns what pyarrow says of a damaged file into one sentence with its name."""
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{str(path)!r} is damaged or not whole: {reason}.") from None


def import_pyarrow() -> Any:
    """The library `pyarrow`; UserError where it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise UserError("A Parquet or Arrow file needs the library pyarrow: pip install 'mixlm[data]'.") from None
    return pyarrow
