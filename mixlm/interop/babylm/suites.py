"""The suites of BabyLM's pipeline that choose among sentences: BLiMP, supplement, EWoK, entity tracking, COMPS, WUG.

Formats and names are those of the strict track of 2026 (github.com/babylm-org/babylm-eval).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlm.errors import UserError, nearest
from mixlm.files import decode, open_regular, parse_json, read_lines

DATA = "BabyLM's evaluation_data, which osf.io/ryjfm has (EWoK by its own terms)"
COMPS = {"comps_base": "base", "comps_wugs": "wugs", "comps_wugs_dist-before": "wugs_dist_before"}
COMPS_OTHER = "wugs_dist_in_between"
SPLITS = ("regular", "ambiref", "move_contents")  # of entity tracking, whose mean its accuracy is


@dataclass(frozen=True)
class Choice:
    """Texts to choose among, of which the first is right: each is a context and what is read after it and scored.

    `said` is how a prediction names each of them, `uid` its kind, and `ratio` the share of people who say the first.
    """

    uid: str
    texts: tuple[tuple[str, str], ...]
    said: tuple[str, ...]
    where: str
    ratio: float | None = None


class Record:
    """A line of a suite's file; UserError names a field that it lacks, and those that it has."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self.content, self.where = content, where

    def __call__(self, name: str, kind: Any = str) -> Any:
        if not isinstance(self.content.get(name), kind):
            wrong = (
                f"is no {getattr(kind, '__name__', 'number')}"
                if name in self.content
                else f"is missing; there are {', '.join(self.content)}"
            )
            raise UserError(f"{self.where}: {name!r} {wrong}.{nearest(name, self.content)}")
        return self.content[name]


Reader = Callable[[Record, str], Choice]


def blimp(record: Record, stem: str) -> Choice:
    """A minimal pair; those of the supplement are of the kind that their file is named by."""
    said = (record("sentence_good"), record("sentence_bad"))
    uid = record("UID") if "field" in record.content else stem
    return Choice(uid, tuple(("", text) for text in said), said, record.where)


def ewok(record: Record, stem: str) -> Choice:
    """Two targets after the first context, which only the first of them fits."""
    said = tuple(" " + record(name) for name in ("Target1", "Target2"))
    return Choice(record("Domain"), tuple((record("Context1"), text) for text in said), said, record.where)


def entity_tracking(record: Record, stem: str) -> Choice:
    """Entity tracking: the content of a box after some operations, among other contents."""
    said, context = tuple(record("options", list)), record("input_prefix")
    return Choice(f"{stem}_{record('numops', int)}_ops", tuple((context, text) for text in said), said, record.where)


def comps(record: Record, stem: str) -> Choice:
    """A property after the concept that has it and after one that has not."""
    phrase = record("property_phrase")
    contexts = (record("prefix_acceptable"), record("prefix_unacceptable"))
    uid = COMPS.get(stem, COMPS_OTHER)
    return Choice(uid, tuple((context, f" {phrase}") for context in contexts), (phrase, phrase), record.where)


def wug(task: str) -> Reader:
    """Two inflections of a made word, and the share of people who say the first."""

    def read(record: Record, stem: str) -> Choice:
        said = tuple(record("sentences").split("\t"))
        ratio = float(record("ratio", int | float | str))
        return Choice(task, tuple(("", text) for text in said), said, record.where, ratio)

    return read


@dataclass(frozen=True)
class Suite:
    """A suite: the task and the name by which its results are filed, the folder of its data, and the reader."""

    task: str
    folder: str
    read: Reader

    @property
    def name(self) -> str:
        """The folder's name, without the ending of its size."""
        return self.folder.removesuffix("_filtered").removesuffix("_fast")


SUITES = tuple(
    Suite(task, folder, read)
    for task, folders, read in (
        ("blimp", ("blimp_filtered", "blimp_fast", "supplement_filtered", "supplement_fast"), blimp),
        ("ewok", ("ewok_filtered", "ewok_fast"), ewok),
        ("entity_tracking", ("entity_tracking", "entity_tracking_fast"), entity_tracking),
        ("comps", ("comps",), comps),
        ("wug_adj", ("wug_adj_nominalization",), wug("wug_adj")),
        ("wug_past", ("wug_past_tense",), wug("wug_past")),
    )
    for folder in folders
)


def choices(suite: Suite, data: Path) -> list[Choice]:
    """The choices in the JSONL files of a suite's folder, in the order of their names; hidden files are left out."""
    folder = data / suite.folder
    names = sorted(name for name in os.listdir(folder) if name.endswith(".jsonl") and not name.startswith("."))
    found = [suite.read(Record(record, where), stem) for stem, where, record in _records(folder, names)]
    if not found:
        raise UserError(f"{folder} holds no line of a .jsonl file.")
    for each in found:
        if len(each.texts) < 2:
            raise UserError(f"{each.where}: there is one text, and a choice is among two or more.")
    return found


def _records(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name in names:
        with open_regular(folder / name) as file:
            for number, line in enumerate(read_lines(file, str(folder / name)), 1):
                where = f"{folder / name}, line {number}"
                if text := decode(line, where).strip():
                    yield Path(name).stem, where, parse_json(text, where, dict)
