"""Text in files, as a source: its splits, its fingerprint, and what a folder holds and is not read."""

import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from mixlm.data.sources.base import check_bound, check_split, digest_files, plain_documents
from mixlm.data.sources.holdout import by_hash
from mixlm.data.sources.walk import Walk, walk
from mixlm.data.store.fingerprint_cache import sha256_of
from mixlm.errors import NotHere, UserError, nearest
from mixlm.files import MAX_LINE_BYTES, open_regular
from mixlm.paths import local

# The number of a shard, such as -00000-of-00010, which may stand behind an ending.
_SHARD = re.compile(r"-\d+-of-\d+(?=$|\.gz$|\.zst$)")


@dataclass(frozen=True)
class TextSource(ABC):
    """A file, or all files of a folder that end in one of `endings`, as a source of documents.

    Hidden files and folders are left out, links to folders followed once, and endings count in any case. A line or
    document of more than `max_document_bytes` is an error, so that a broken file does not fill the memory. A subclass
    that gives `endings` is a kind of text, named as its module. It need not be registered: a kind is known once its
    module is imported, as gin files import it.
    """

    path: str = field(repr=False)  # the fingerprint covers the text, wherever it lies
    max_document_bytes: int = field(default=MAX_LINE_BYTES, repr=False, kw_only=True)  # refuses text, and changes none
    endings: ClassVar[tuple[str, ...]] = ()
    magic: ClassVar[bytes] = b""  # the bytes that every file of the kind begins with, if there are such

    def __post_init__(self) -> None:
        local(self.path, "TEXT")
        check_bound(self.max_document_bytes)

    @abstractmethod
    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split, always in the same order; never an empty one."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over the bytes of the text and over the rule of the split."""

    def all_documents(self) -> Iterator[str]:
        """Every document once, on whichever side of the split it is."""
        yield from self.documents("train")
        yield from self.documents("validation")

    def files(self) -> list[Path]:
        """The file itself, or a folder's files of this kind, sorted by path; UserError where there is none."""
        place = existing(self.path)
        if not place.is_dir():
            open_regular(place).close()
            return [place]
        found = walk(place)
        files = found.read_by(self.reads)
        if not files:
            endings = ", ".join(self.endings)
            raise UserError(f"The folder {self.path!r} holds no file that ends in {endings}{but(found, self.reads)}.")
        return files

    def notes(self) -> list[str]:
        """A line about what a folder holds and is not read, if there is anything."""
        place = existing(self.path)
        unread = walk(place).unread(self.reads) if place.is_dir() else ""
        return [f"Not read in {self.path!r}: {unread}."] if unread else []

    @classmethod
    def reads(cls, name: str) -> bool:
        """Returns True if a file of that name is of this kind."""
        return _SHARD.sub("", name.lower()).endswith(cls.endings)

    @classmethod
    def kind(cls) -> str:
        """The kind's name, that of the module which gives its endings."""
        return _defining(cls).__module__.rpartition(".")[2]


class HeldOutFiles(TextSource):
    """Files of many documents each; a subclass says how a file is read, and has a field `validation_fraction`.

    Blank documents are passed over. A document is held out by a hash of its text, so that equal documents are on one
    side and memory does not grow with the corpus: validation is about `validation_fraction` of the documents, and at
    least one document is on each side. Raises UserError for a corpus of fewer than two different documents. Where
    `split_of` knows files of the validation split, those are it, and files of the test split are never read. The
    fingerprint of a kind defined outside of mixlm covers its module's file.
    """

    validation_fraction: float

    @abstractmethod
    def read(self, path: Path) -> Iterator[str]:
        """The documents of one file, in its order; UserError names the file and the record at fault."""

    def split_of(self, path: Path) -> str | None:
        """The split that a file of a folder belongs to by its name: train, validation, test, or None for any."""
        del path
        return None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.validation_fraction < 1:
            name = type(self).__name__
            raise UserError(f"{name}.validation_fraction is between 0 and 1, not {self.validation_fraction}.")

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split in the order of the files' paths and of the records."""
        wanted, files = check_split(split), self.files()
        held_out = [path for path in files if self._split(path) == "validation"]
        if not held_out:
            yield from by_hash(self.all_documents, self.validation_fraction, split, self.path)
            return
        side = held_out if wanted == "validation" else [path for path in files if path not in set(held_out)]
        found = self._documents(side)
        if (first := next(found, None)) is None:
            raise UserError(f"{self.path!r} holds no document of the {wanted} split.")
        yield first
        yield from found

    def files(self) -> list[Path]:
        """The file itself, or a folder's files of this kind, sorted by path, without those of the test split."""
        found = super().files()
        kept = [path for path in found if self._split(path) != "test"]
        return kept or found

    def notes(self) -> list[str]:
        """Lines about what a folder holds and is not read."""
        unread = len(super().files()) - len(files := self.files())
        held_out = sum(self._split(path) == "validation" for path in files)
        said = [f"The test split of {self.path!r} is not read: {unread} of its files."] if unread else []
        said += [f"Validation of {self.path!r} is {held_out} of its {len(files)} files."] if held_out else []
        return [*super().notes(), *said]

    def fingerprint(self) -> str:
        """SHA-256 over all files, their names, the settings and the rule of the split; not over where they lie."""
        files, folder = self.files(), local(self.path, "TEXT")
        names = [path.relative_to(folder).as_posix() for path in files if len(files) > 1]
        names_no_text = ("path", "max_document_bytes")
        settings = [getattr(self, each.name) for each in fields(self) if each.name not in names_no_text]
        return digest_files(files, [self.kind(), *settings, *names, *self._definition()])

    def all_documents(self) -> Iterator[str]:
        """Every document in the order of the files' paths and of the records; a corpus may hold just one."""
        return self._documents(self.files())

    def _documents(self, files: list[Path]) -> Iterator[str]:
        for path in files:
            yield from plain_documents(self.read(path), repr(str(path)), self.max_document_bytes)

    def _split(self, path: Path) -> str | None:
        """The split of a file; one that was named itself belongs to none."""
        return self.split_of(path) if path != local(self.path, "TEXT") else None

    def _definition(self) -> list[str]:
        """The digest of a module outside of mixlm that defines this kind: its reader may change as its text does."""
        module = _defining(type(self)).__module__
        file = getattr(sys.modules[module], "__file__", None)
        return [] if module.startswith("mixlm.") or file is None else sha256_of([Path(file)])


@dataclass(frozen=True)
class RecordFiles(HeldOutFiles):
    """Files that hold one record for each document, which is the record's `feature`; blank ones are passed over."""

    feature: str = "text"
    validation_fraction: float = 0.05


def _defining(kind: type[TextSource]) -> type[TextSource]:
    """The class that gives a kind its endings."""
    return next(base for base in kind.__mro__ if "endings" in vars(base))


def but(found: Walk, reads: Callable[[str], bool]) -> str:
    """The end of a sentence on a folder that holds nothing of a kind: what it holds instead."""
    unread = found.unread(reads)
    return f", and what it holds is not read ({unread})" if unread else ""


def existing(path: str) -> Path:
    """The file or folder; UserError with the nearest name where there is none, NotHere where none was given."""
    if not isinstance(path, str) or not path:
        raise NotHere("No text was given: say --gin.TEXT=FILE_OR_FOLDER.")
    place = local(path, "TEXT")
    try:
        place.stat()
    except (OSError, ValueError) as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{path!r} cannot be read: {reason}.") from None
        siblings = [str(place.parent / name) for name in os.listdir(place.parent)] if place.parent.is_dir() else []
        raise UserError(f"There is no file or folder {path!r}.{nearest(str(place), siblings)}") from None
    return place
