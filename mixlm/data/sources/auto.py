"""Text of any kind that is read here, told by the names of its files."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from mixlm.data.sources.base import Source
from mixlm.data.sources.file_kinds import kind_of
from mixlm.data.sources.jsonl import JsonLines
from mixlm.data.sources.text import TextFiles
from mixlm.data.sources.tfrecord import TFRecords


@dataclass(frozen=True)
class Text:
    """A file or folder of plain text, JSON lines or TFRecords, whichever lies at `path`.

    `feature` is where the documents of the latter two are. It is looked at when it is read, so that a run can be
    explained where the text is not. Raises UserError for a folder with files of several kinds.
    """

    path: str = field(repr=False)  # where the text lies; what it says has a fingerprint
    feature: str = "text"
    validation_fraction: float = 0.05

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split, as the kind that lies there gives them."""
        return source_of(self).documents(split)

    def fingerprint(self) -> str:
        """SHA-256 of the kind that lies there."""
        return source_of(self).fingerprint()


def source_of(text: Text) -> Source:
    """The source for what lies at a text's path."""
    kind = kind_of(text.path)
    if kind == "text":
        return TextFiles(text.path, text.validation_fraction)
    reader = JsonLines if kind == "jsonl" else TFRecords
    return reader(text.path, text.feature, text.validation_fraction)
