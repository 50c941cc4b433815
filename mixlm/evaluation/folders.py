"""The folders of a run's evaluations: each has its own, and a link leads to the newest."""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixlm.errors import UserError
from mixlm.paths import make_within, refuse_link, within

FOLDER, LATEST = "evaluation", "latest"
NAME_LENGTH = 40  # Ours: characters of the pairs' name, of which a file system may take four bytes each.


def folder_name(step: int, rows: int, pairs: str | None, *facts: object) -> str:
    """The name of an evaluation: step, rows of text, pairs, and a digest of all that its figures depend on.

    The same evaluation has the same name, and another one another.
    """
    key = hashlib.sha256(repr((step, rows, pairs, facts)).encode()).hexdigest()[:8]
    words = re.sub(r"\W+", "_", Path(pairs or "").name)[:NAME_LENGTH]
    return "-".join(filter(None, (f"step_{step}", f"{rows}_rows", words, key)))


@contextmanager
def evaluation_folder(run: Path, name: str) -> Iterator[Path]:
    """A new folder, which becomes `evaluation/NAME` of the run once the block has ended well; else nothing is changed.

    It takes the place of an older evaluation of that name. No link inside of the run is written through. Raises
    UserError where the folder cannot be written.
    """
    parent, place, token = run / FOLDER, run / FOLDER / name, secrets.token_hex(8)
    draft, aside = (parent / f".{token}.{end}" for end in ("draft", "old"))
    try:
        within(make_within(run, FOLDER), name)
        draft.mkdir()
        yield draft
        if place.exists():
            place.rename(aside)
        draft.rename(place)
    except OSError as error:
        raise UserError(f"{place} cannot be written: {error.strerror or error}.") from error
    except UserError as error:
        raise UserError(str(error).replace(str(draft), str(place))) from error
    finally:
        for rest in (draft, aside):
            shutil.rmtree(rest, ignore_errors=True)


def link_latest(run: Path, name: str) -> str | None:
    """Makes `evaluation/latest` a relative link to the evaluation `name`; returns why, where it cannot be made.

    Some file systems have no links, and lose nothing else by that.
    """
    link = run / FOLDER / LATEST
    draft = link.with_name(f".{secrets.token_hex(8)}.{LATEST}")
    try:
        draft.symlink_to(name)
        draft.replace(link)
    except OSError as error:
        draft.unlink(missing_ok=True)
        return error.strerror or str(error)
    return None


def latest_evaluation(run: Path) -> Path:
    """The folder of the run's newest evaluation; UserError where there is none, or the link leads elsewhere."""
    link = run / FOLDER / LATEST
    refuse_link(link.parent)
    if not link.is_symlink():
        raise UserError(f"{run} has no evaluation yet: `mixlm evaluate` writes one.")
    folder = within(link.parent, os.readlink(link))
    if not folder.is_dir():
        raise UserError(f"{link} leads to no evaluation of this run; evaluate it again.")
    return folder
