"""The copy of a vocabulary file in a run's folder, with which the run is whole where the file itself has gone."""

import os
from pathlib import Path

from mixlm import files
from mixlm.data.vocabularies.given import BYT5, BYTES
from mixlm.paths import local, make_within, within

FOLDER = "vocabulary"


def keep(path: Path, run: Path) -> None:
    """Copies a vocabulary file into `run`/vocabulary, once; what is no file, such as bytes, has no copy."""
    copy = run / FOLDER / path.name
    if str(path) in (BYTES, BYT5) or not path.is_file() or copy.exists():
        return
    content = files.read_bytes(path)
    with files.replacing(within(make_within(run, FOLDER), path.name), "wb") as file:
        file.write(content)


def stand_in(path: str, run: Path) -> Path | None:
    """The run's copy of a vocabulary that is not at `path` any more; None where it is, or no copy was made."""
    if not path or os.path.exists(local(path, "VOCAB_MODEL")):
        return None
    copy = run / FOLDER / Path(path).name
    return copy.absolute() if copy.is_file() else None
