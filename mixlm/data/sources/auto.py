"""Text of any kind, told by the names of its files."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from mixlm.data.sources.files import TextSource
from mixlm.data.sources.kinds import kind_of
from mixlm.files import MAX_LINE_BYTES
from mixlm.paths import local


@dataclass(frozen=True)
class Text:
    """A file or folder of any kind of text (see `mixlm.data.sources.kinds.kinds`), whichever lies at `path`.

    `feature` is that of JSON lines and TFRecords, `hold_out_by` that of plain text. The path is looked at when it is
    read, so that a run can be explained where the text is not. Raises UserError for a folder with files of several
    kinds.
    """

    path: str = field(repr=False)  # where the text lies; what it says has a fingerprint
    feature: str = "text"
    validation_fraction: float = 0.05
    hold_out_by: str = field(default="content", repr=False)  # of plain text; its tokens have a fingerprint
    max_document_bytes: int = field(default=MAX_LINE_BYTES, repr=False)

    def __post_init__(self) -> None:
        local(self.path, "TEXT")

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split, as the kind that lies there gives them."""
        return source_of(self).documents(split)

    def fingerprint(self) -> str:
        """SHA-256 of the kind that lies there."""
        return source_of(self).fingerprint()

    def notes(self) -> list[str]:
        """The sentence on files left unread, by the kind of the folder."""
        return source_of(self).notes()


def source_of(text: Text) -> TextSource:
    """The source for what lies at a text's path, with those of its settings that this kind has."""
    kind: Any = kind_of(text.path)
    taken = {setting.name for setting in fields(kind)} & {setting.name for setting in fields(text)} - {"path"}
    return kind(text.path, **{name: getattr(text, name) for name in taken})
