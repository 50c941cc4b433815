"""The files of BabyLM's corpora: .train and .dev, a line for each sentence or utterance."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mixlm.data.sources.files import HeldOutFiles
from mixlm.data.sources.text import cut_file


@dataclass(frozen=True)
class BabyLM(HeldOutFiles):
    """A folder of BabyLM's text, each file cut into documents at blank lines, or at lines' ends (see `text.cut_file`).

    Where there are .dev files they are the validation split; else it is held out of the .train files by a hash of the
    documents' text. The .test files of BabyLM are of no kind, and never read.
    """

    endings: ClassVar[tuple[str, ...]] = (".train", ".dev")
    validation_fraction: float = 0.05

    def read(self, path: Path) -> Iterator[str]:
        """The documents of one file."""
        yield from cut_file(path, self.max_document_bytes)

    def split_of(self, path: Path) -> str | None:
        """The split of a file by its ending."""
        return "validation" if path.suffix.lower() == ".dev" else "train"
