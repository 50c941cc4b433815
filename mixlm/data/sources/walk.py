"""A folder of text: the files in it, without hidden names, and a line about what is not read."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from mixlm.errors import UserError

# What operating systems and editors add to a folder that is packed or opened there; hidden names begin with a dot.
ADDED = ("__MACOSX",)
# Of a name such as a.jsonl.zst both endings are said.
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4")
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass
class Walk:
    """The entries of a folder and of those below it: regular files, links that lead nowhere, and the rest.

    Hidden names are left out, with all below them. A link to a folder is followed, unless that folder is read already.
    """

    folder: Path
    files: list[Path] = field(default_factory=list)
    broken: list[Path] = field(default_factory=list)
    others: list[tuple[Path, str]] = field(default_factory=list)
    hidden: int = 0
    again: int = 0  # links to folders that are read already

    def read_by(self, reads: Callable[[str], bool]) -> list[Path]:
        """The files whose names are read, sorted by path; UserError for a link of such a name that leads nowhere."""
        for link in sorted(path for path in self.broken if reads(path.name)):
            raise UserError(f"{str(link)!r} is a link {_why_broken(link)}: mend it, or take it out of the folder.")
        return sorted(path for path in self.files if reads(path.name))

    def unread(self, reads: Callable[[str], bool]) -> str:
        """A sentence that counts the files left unread by ending; empty where there are none."""
        endings = Counter(ending(path.name) for path in self.files if not reads(path.name))
        said = [f"{count} {name or 'without an ending'}" for name, count in sorted(endings.items())]
        said += [f"{str(path)!r}, which is {kind}" for path, kind in sorted(self.others)]
        nowhere = sum(not reads(path.name) for path in self.broken)
        counts = {
            "hidden": self.hidden,
            "linked to what is not there": nowhere,
            "linked folders read already": self.again,
        }
        return ", ".join([*said, *(f"{count} {what}" for what, count in counts.items() if count)])


def walk(folder: Path) -> Walk:
    """Looks at everything below a folder; UserError for a folder that cannot be read, and for a link into itself."""
    found = Walk(folder)
    seen: set[str] = set()
    links = list(_enter(found, folder, seen))
    # Folders before links to them, so that a file has the same name whether or not somebody links to it.
    for link in links:  # grows, as linked folders hold links
        target, here = os.path.realpath(link), os.path.realpath(link.parent)
        if os.path.commonpath([target, here]) == target:
            raise UserError(f"The folder {str(link)!r} is a link to {target!r}, which it lies in: take it out.")
        if target in seen:
            found.again += 1
        else:
            links += _enter(found, link, seen)
    return found


def _enter(found: Walk, folder: Path, seen: set[str]) -> Iterator[Path]:
    """Notes what lies in a folder and in the folders below; yields the links to folders."""
    pending = [folder]
    while pending:
        place = pending.pop()
        seen.add(os.path.realpath(place))
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"The folder {str(place)!r} cannot be read: {error.strerror}.") from None
        for entry in entries:
            path = place / entry.name
            if entry.name.startswith(".") or entry.name in ADDED:
                found.hidden += 1
                continue
            try:
                mode = entry.stat().st_mode
            except OSError:
                found.broken.append(path)
                continue
            if stat.S_ISREG(mode):
                found.files.append(path)
            elif not stat.S_ISDIR(mode):
                found.others.append((path, _KINDS.get(stat.S_IFMT(mode), "no file")))
            elif entry.is_symlink():
                yield path
            elif os.path.realpath(path) in seen:
                found.again += 1
            else:
                pending.append(path)


def ending(name: str) -> str:
    """The ending of a name in small letters, both endings of a packed file, such as .jsonl.zst."""
    endings = PurePath(name.lower()).suffixes
    return "".join(endings[-2:] if endings[-1:] and endings[-1] in PACKED else endings[-1:])


def _why_broken(link: Path) -> str:
    try:
        os.stat(link)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "that leads back to itself"
        if error.errno != errno.ENOENT:
            return f"that cannot be followed ({error.strerror})"
    return f"to {os.readlink(link)!r}, which is not there"
