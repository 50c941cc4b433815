"""Kinds of text files: each is a class whose `endings` say which files it reads."""

import codecs
import importlib
import os
import pkgutil
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from mixlm.data.sources.base import check_bound, check_document, digest_files, normalize_whitespace
from mixlm.data.sources.holdout import by_hash
from mixlm.data.sources.walk import Walk, walk
from mixlm.data.store.fingerprint_cache import sha256_of
from mixlm.errors import NotHere, UserError, nearest
from mixlm.files import MAX_LINE_BYTES, open_regular
from mixlm.paths import local

_SAMPLE_BYTES = 2**16  # Ours: binary formats have a NUL or what is no UTF-8 long before that.
# The number of a shard, such as -00000-of-00010, which may stand behind an ending.
_SHARD = re.compile(r"-\d+-of-\d+(?=$|\.gz$)")


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
            raise UserError(f"The folder {self.path!r} holds no file that ends in {endings}{_but(found, self.reads)}.")
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


@dataclass(frozen=True)
class RecordFiles(TextSource):
    """Files that hold one record for each document; a subclass says how a file is read.

    The document is the record's `feature`; blank ones are passed over. A document is held out by a hash of its text, so
    that equal documents are on one side and memory does not grow with the corpus: validation is about
    `validation_fraction` of the documents, and at least one document is on each side. Raises UserError for a corpus of
    fewer than two different documents. The fingerprint of a kind defined outside of mixlm covers its module's file.
    """

    feature: str = "text"
    validation_fraction: float = 0.05

    @abstractmethod
    def read(self, path: Path) -> Iterator[str]:
        """The documents of one file, in its order; UserError names the file and the record at fault."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.validation_fraction < 1:
            name = type(self).__name__
            raise UserError(f"{name}.validation_fraction is between 0 and 1, not {self.validation_fraction}.")

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split in the order of the files' paths and of the records."""
        return by_hash(self.all_documents, self.validation_fraction, split, self.path)

    def fingerprint(self) -> str:
        """SHA-256 over all files, their names, the settings and the rule of the split; not over where they lie."""
        files, folder = self.files(), local(self.path, "TEXT")
        names = [path.relative_to(folder).as_posix() for path in files if len(files) > 1]
        names_no_text = ("path", "max_document_bytes")
        settings = [getattr(self, each.name) for each in fields(self) if each.name not in names_no_text]
        return digest_files(files, [self.kind(), *settings, *names, *self._definition()])

    def all_documents(self) -> Iterator[str]:
        """Every document in the order of the files' paths and of the records; a corpus may hold just one."""
        for path in self.files():
            for number, document in enumerate(self.read(path), 1):
                where = f"Document {number} of {str(path)!r}"
                check_document(document, where, self.max_document_bytes)
                if document := normalize_whitespace(document):
                    yield document

    def _definition(self) -> list[str]:
        """The digest of a module outside of mixlm that defines this kind: its reader may change as its text does."""
        module = _defining(type(self)).__module__
        file = getattr(sys.modules[module], "__file__", None)
        return [] if module.startswith("mixlm.") or file is None else sha256_of([Path(file)])


def _defining(kind: type[TextSource]) -> type[TextSource]:
    """The class that gives a kind its endings."""
    return next(base for base in kind.__mro__ if "endings" in vars(base))


def kinds() -> list[type[TextSource]]:
    """All kinds of text: those defined outside of mixlm first, then those of this folder."""
    here = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{here}.{module.name}")

    def below(parent: Any) -> Iterator[type[TextSource]]:
        for child in parent.__subclasses__():
            yield from [child] if vars(child).get("endings") else []
            yield from below(child)

    # A module that was reloaded has left its former class behind.
    named = [
        kind for kind in below(TextSource) if getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind
    ]
    return sorted(named, key=lambda kind: (is_builtin(kind), kind.kind()))


def is_builtin(kind: type[TextSource]) -> bool:
    """Returns True for a kind of this folder; such a kind has a gin file of its name in gin/data."""
    return kind.__module__.startswith("mixlm.")


def kind_of(path: str) -> type[TextSource]:
    """The kind of a file, plain text where its name says nothing, or of all files in a folder that are of any kind.

    Raises UserError where nothing is there, where a folder holds no text, and where it holds several kinds.
    """
    place, known = existing(path), kinds()

    def kind_by_name(name: str) -> type[TextSource] | None:
        return next((kind for kind in known if kind.reads(name)), None)

    if not place.is_dir():
        return kind_by_name(place.name) or plain_text(place, known)
    found = walk(place)
    read = found.read_by(lambda name: kind_by_name(name) is not None)
    of = sorted({kind for kind in (kind_by_name(file.name) for file in read) if kind is not None}, key=known.index)
    if len(of) > 1:
        several = " and ".join(", ".join(kind.endings) for kind in of)
        raise UserError(f"The folder {path!r} holds several kinds of text, {several}: give each a folder of its own.")
    if not of:
        unread = _but(found, lambda name: False)
        raise UserError(f"The folder {path!r} holds no text: no file ends in {_endings(known)}{unread}.")
    return of[0]


def plain_text(file: Path, known: Sequence[type[TextSource]]) -> type[TextSource]:
    """The kind of a file whose ending is nobody's: plain text; UserError where its beginning is no UTF-8 text."""
    with open_regular(file) as opened:
        beginning = opened.read(_SAMPLE_BYTES)
    try:
        # A character may be cut at the end of the sample.
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
        is_text = b"\0" not in beginning
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise UserError(f"{str(file)!r} is no UTF-8 text, and what is read besides ends in {_endings(known)}.")
    return next(kind for kind in known if kind.kind() == "text" and is_builtin(kind))


def _endings(known: Sequence[type[TextSource]]) -> str:
    return ", ".join(ending for kind in known for ending in kind.endings)


def _but(found: Walk, reads: Callable[[str], bool]) -> str:
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
