"""Kinds of text files: each is a class whose `endings` say which files it reads, and its `magic` how they begin."""

import codecs
import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mixlm.data.sources.files import TextSource, but, existing
from mixlm.data.sources.walk import walk
from mixlm.errors import UserError
from mixlm.files import open_regular

_SAMPLE_BYTES = 2**16  # Ours: binary formats have a NUL or what is no UTF-8 long before that.
# The beginnings of packed files, which are of a kind only by their whole names.
_PACKED = {
    b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"PK\x03\x04": ".zip", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz",
}  # fmt: skip


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
    """The kind of a file, by its beginning where its name says nothing, or of all files in a folder of any kind.

    Raises UserError where nothing is there, where a folder holds no text, and where it holds several kinds.
    """
    place, known = existing(path), kinds()

    def kind_by_name(name: str) -> type[TextSource] | None:
        return next((kind for kind in known if kind.reads(name)), None)

    if not place.is_dir():
        return kind_by_name(place.name) or by_magic(place, known) or plain_text(place, known)
    found = walk(place)
    read = found.read_by(lambda name: kind_by_name(name) is not None)
    of = sorted({kind for kind in (kind_by_name(file.name) for file in read) if kind is not None}, key=known.index)
    if len(of) > 1:
        several = " and ".join(", ".join(kind.endings) for kind in of)
        raise UserError(f"The folder {path!r} holds several kinds of text, {several}: give each a folder of its own.")
    if not of:
        unread = but(found, lambda name: False)
        raise UserError(f"The folder {path!r} holds no text: no file ends in {_endings(known)}{unread}.")
    return of[0]


def by_magic(file: Path, known: Sequence[type[TextSource]]) -> type[TextSource] | None:
    """The kind whose files begin as this one does, whatever its name."""
    with open_regular(file) as opened:
        beginning = opened.peek(_SAMPLE_BYTES)
    return next((kind for kind in known if kind.magic and beginning.startswith(kind.magic)), None)


def begins_as(file: Path) -> str:
    """A sentence about a file that begins as one of another kind, or as a packed one; empty for all others."""
    kind = by_magic(file, kinds())
    with open_regular(file) as opened:
        beginning = opened.peek(_SAMPLE_BYTES)
    packed = next((ending for magic, ending in _PACKED.items() if beginning.startswith(magic)), None)
    ending = kind.endings[0] if kind else packed
    return f" It begins as a {ending} file does: name it so." if ending else ""


def plain_text(file: Path, known: Sequence[type[TextSource]]) -> type[TextSource]:
    """The kind of a file whose ending is nobody's: plain text; UserError where its beginning is no UTF-8 text."""
    with open_regular(file) as opened:
        beginning = opened.read(_SAMPLE_BYTES)
    try:
        # A character may be cut at the end of the sample.
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
        is_text = b"\0" not in beginning and by_magic(file, known) is None
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise UserError(
            f"{str(file)!r} is no UTF-8 text, and what is read besides ends in {_endings(known)}.{begins_as(file)}"
        )
    return next(kind for kind in known if kind.kind() == "text" and is_builtin(kind))


def _endings(known: Sequence[type[TextSource]]) -> str:
    return ", ".join(ending for kind in known for ending in kind.endings)
