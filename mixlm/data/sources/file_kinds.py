"""Which kind of text lies in a file or folder, told by the ends of names, and its files in order."""

import os
import re
from pathlib import Path

from mixlm.errors import NotHere, UserError, nearest

# Each kind has a gin file of its name in gin/data; how its files' names end, and how that is said.
KINDS = {
    "text": (re.compile(r"\.txt$"), ".txt"),
    "jsonl": (re.compile(r"\.(jsonl(\.gz)?|json\.gz)$"), ".jsonl, .jsonl.gz, .json.gz"),
    "tfrecord": (
        re.compile(r"\.tfrecords?(-\d+-of-\d+)?(\.gz)?$"),
        ".tfrecord, .tfrecord.gz, .tfrecord-0000-of-0010",
    ),
}


def kind_of(path: str) -> str:
    """The kind of a file, text where its name says nothing, or of all files in a folder that are of any kind.

    Raises UserError where nothing is there, where a folder holds no text, and where it holds several kinds.
    """
    place = existing(path)
    names = [file.name for file in place.rglob("*") if file.is_file()] if place.is_dir() else [place.name]
    found = [kind for kind, (ends, _) in KINDS.items() if any(ends.search(name) for name in names)]
    if len(found) > 1:
        kinds = " and ".join(KINDS[kind][1] for kind in found)
        raise UserError(f"The folder {path!r} holds several kinds of text, {kinds}: give each a folder of its own.")
    if not found and place.is_dir():
        endings = ", ".join(said for _, said in KINDS.values())
        raise UserError(f"The folder {path!r} holds no text: no file ends in {endings}.")
    return found[0] if found else "text"


def files_of_kind(path: str, kind: str) -> list[Path]:
    """The file itself, or a folder's files of that kind in the order of their names; UserError where there is none."""
    place = existing(path)
    ends, said = KINDS[kind]
    files = sorted(file for file in place.rglob("*") if ends.search(file.name)) if place.is_dir() else [place]
    if not files:
        raise UserError(f"The folder {path!r} holds no file that ends in {said}.")
    return files


def existing(path: str) -> Path:
    """The file or folder; UserError with the nearest name where there is none, NotHere where none was given."""
    if not isinstance(path, str) or not path:
        raise NotHere("No text was given: say --gin.TEXT=FILE_OR_FOLDER.")
    place = Path(path).expanduser()
    if not place.exists():
        siblings = [str(place.parent / name) for name in os.listdir(place.parent)] if place.parent.is_dir() else []
        raise UserError(f"There is no file or folder {path!r}.{nearest(str(place), siblings)}")
    return place
