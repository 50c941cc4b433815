"""Records of supervised tasks: TSV, JSON lines and parallel text of a folder, or a data set of TensorFlow Datasets."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mixlm import files
from mixlm.data.sources.base import SPLITS, check_split, digest_files
from mixlm.data.sources.files import existing
from mixlm.data.sources.holdout import by_hash
from mixlm.data.sources.tfds import Tfds
from mixlm.errors import UserError, nearest

Record = Mapping[str, Any]
# The words of file names that say a split; a name of none of these is not read (such as test.tsv).
WORDS = {"train": {"train"}, "validation": {"validation", "valid", "val", "dev"}}
PASSED_OVER = "mismatched"  # MNLI's second validation set
ENDINGS = (".tsv", ".jsonl")
HELD_OUT = 0.05  # Ours: the share of the training records that validates where no file does.
# Other names of fields, in GLUE's own files.
ALIASES = {
    "label": ("gold_label", "is_duplicate", "Quality", "score"),
    "premise": ("sentence1",),
    "hypothesis": ("sentence2",),
    "sentence1": ("#1 String",),
    "sentence2": ("#2 String",),
}


@runtime_checkable
class Records(Protocol):
    """Records by field, split into train and validation."""

    def records(self, split: str) -> Iterator[tuple[str, Record]]:
        """Each record after the place where it stands, for messages; always in the same order."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over what the records depend on."""
        ...


@dataclass(frozen=True)
class LocalRecords:
    """The records of `task` in the folder `path`, in its sub-folder of the task's name, or in one file.

    A file's split is a word of its name, `train` or one of WORDS. TSV has a header, or else `columns`, and no quotes;
    the files `train.FIELD` hold one line a record (parallel text). Where no file validates, a record is held out by
    `split_of`, or by a hash for about HELD_OUT of them. Raises UserError for a file without one of `fields`.
    """

    path: str = field(repr=False)  # the fingerprint covers the content, wherever it lies
    task: str
    fields: tuple[str, ...]
    columns: tuple[str, ...] = ()
    split_of: Callable[[Record], str] | None = field(default=None, repr=False)

    def fingerprint(self) -> str:
        """SHA-256 over the files and their names."""
        found = {split: self._files(split) for split in SPLITS}
        names = {split: [path.name for path in paths] for split, paths in found.items()}
        read = list(dict.fromkeys(path for paths in found.values() for path in paths))
        return digest_files(read, ["records", self.task, self.fields, self.columns, HELD_OUT, names])

    def records(self, split: str) -> Iterator[tuple[str, Record]]:
        """The records of a split in the order of the files' names and lines."""
        own, train = self._files(check_split(split)), self._files("train")
        if own and own != train:
            yield from self._read(own)
        elif self.split_of is not None:
            yield from ((where, each) for where, each in self._read(train) if self.split_of(each) == split)
        elif self._files("validation"):
            yield from self._read(train)
        else:
            texts = by_hash(lambda: (json.dumps(each) for _, each in self._read(train)), HELD_OUT, split, self.path)
            yield from ((repr(self.path), json.loads(text)) for text in texts)

    def _files(self, split: str) -> list[Path]:
        """The files of a split; one file alone is the training file."""
        place = existing(self.path)
        folder = _own_folder(place, self.task)
        if not folder.is_dir():
            return [folder] if split == "train" else []
        parallel = tuple(f".{name}" for name in self.fields)
        found = [path for path in sorted(folder.iterdir()) if path.suffix in (*ENDINGS, *parallel) and path.is_file()]
        found = [path for path in found if re.match(rf"{self.task}[._-]", path.name)] or found
        chosen = [path for path in found if WORDS[split] & _words(path) and PASSED_OVER not in _words(path)]
        if split == "train" and not chosen:
            if len(found) != 1:
                raise UserError(
                    f"{str(folder)!r} holds no training file of {self.task!r}: name one train.tsv or train.jsonl, with "
                    f"{_listed(self.fields)}."
                )
            return found
        return chosen

    def _read(self, paths: Sequence[Path]) -> Iterator[tuple[str, Record]]:
        if paths and paths[0].suffix in {f".{name}" for name in self.fields}:
            yield from self._parallel(paths)
            return
        for path in paths:
            for where, record in self._tsv(path) if path.suffix == ".tsv" else _json_lines(path):
                yield where, _checked(record, self.fields, where)

    def _tsv(self, path: Path) -> Iterator[tuple[str, Record]]:
        columns: Sequence[str] = ()
        for number, line in _lines(path):
            cells = line.split("\t")
            if not columns:
                columns = self._columns(cells, path)
                if columns is cells:
                    continue
            if len(cells) != len(columns):
                raise UserError(f"Line {number} of {str(path)!r} has {len(cells)} columns instead of {len(columns)}.")
            yield f"Line {number} of {str(path)!r}", dict(zip(columns, cells))

    def _columns(self, cells: list[str], path: Path) -> Sequence[str]:
        """The header, or the task's own columns for a file without one."""
        if all(_held(name, cells) for name in self.fields):
            return cells
        if len(cells) == len(self.columns):
            return self.columns
        _checked(dict.fromkeys(cells), self.fields, f"The header of {str(path)!r}")
        raise AssertionError("a field is missing")

    def _parallel(self, paths: Sequence[Path]) -> Iterator[tuple[str, Record]]:
        columns = {name: [path for path in paths if path.suffix == f".{name}"] for name in self.fields}
        for name in (name for name, found in columns.items() if len(found) != 1):
            raise UserError(f"Beside {str(paths[0])!r} there must be one file {paths[0].stem}.{name}.")
        lines = [[line for _, line in _lines(found[0], blank=True)] for found in columns.values()]
        if len({len(each) for each in lines}) > 1:
            counts = ", ".join(f"{found[0].name} {len(each)}" for found, each in zip(columns.values(), lines))
            raise UserError(f"The files of parallel text have different numbers of lines: {counts}.")
        for number, cells in enumerate(zip(*lines), 1):
            yield f"Line {number} of {str(paths[0])!r}", dict(zip(columns, cells))


@dataclass(frozen=True)
class TfdsRecords:
    """The records of a data set that TensorFlow Datasets has prepared on this machine."""

    source: Tfds
    fields: tuple[str, ...]

    def fingerprint(self) -> str:
        """SHA-256 over builder, version and splits."""
        return self.source.fingerprint()

    def records(self, split: str) -> Iterator[tuple[str, Record]]:
        """The records of a split in the order of the files; imports TensorFlow."""
        for number, example in enumerate(self.source.examples(split), 1):
            where = f"Example {number} of {self.source.name}'s {split}"
            yield where, _checked({name: _plain(value) for name, value in example.items()}, self.fields, where)


def _own_folder(place: Path, task: str) -> Path:
    """The sub-folder of the task's name, such as SST-2 of `sst2`; without one, the place itself."""
    inside = sorted(place.iterdir()) if place.is_dir() else []
    own = [path for path in inside if path.is_dir() and _letters(path.name) == _letters(task)]
    return own[0] if own else place


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _words(path: Path) -> set[str]:
    return set(re.split("[^a-z]+", path.name.lower()))


def _lines(path: Path, blank: bool = False) -> Iterator[tuple[int, str]]:
    with files.open_regular(path) as file:
        for number, line in enumerate(files.read_lines(file, repr(str(path))), 1):
            text = files.decode(line, f"Line {number} of {str(path)!r}").rstrip("\r\n")
            if blank or text.strip():
                yield number, text


def _json_lines(path: Path) -> Iterator[tuple[str, Record]]:
    for number, line in _lines(path):
        where = f"Line {number} of {str(path)!r}"
        record = files.parse_json(line, where, dict)
        inner = record.get("target")  # SuperGLUE's WSC has its spans one level below
        yield where, record | inner if isinstance(inner, dict) else record


def _held(name: str, known: Sequence[str]) -> str | None:
    """The name of a field in this file, its own or another."""
    return next((each for each in (name, *ALIASES.get(name, ())) if each in known), None)


def _checked(record: Record, fields: Sequence[str], where: str) -> Record:
    """The record with its fields by their own names; UserError for one that is missing, with those that there are."""
    found = {}
    for name in fields:
        held = _held(name, list(record))
        if held is None:
            raise UserError(f"{where} has no {name!r}, only {_listed(record)}.{nearest(name, record)}")
        found[name] = record[held]
    return {**record, **found}


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "nothing"


def _plain(value: Any) -> Any:
    """Text and Python's numbers, lists and dicts from TFDS's arrays."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return [_plain(each) for each in value] if isinstance(value, list) else value
