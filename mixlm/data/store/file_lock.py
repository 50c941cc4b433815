"""File locks: one process builds what several need, and the others wait for it."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mixlm.files import open_in_place


@contextmanager
def exclusive(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Holds the lock file `path` until the block or the process ends, however it does.

    `waiting` is called once where another process (or thread) holds it. The file is gone afterwards. Raises OSError
    where the folder cannot be written to, or knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    said = False
    while True:
        held = open_in_place(path)
        try:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    waiting()
                    said = True
                fcntl.flock(held, fcntl.LOCK_EX)
            # Who had it has unlinked it, so that a lock on the old file holds nobody off.
            if _is(held, path):
                break
        except BaseException:
            os.close(held)
            raise
        os.close(held)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(held)


def _is(held: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held), os.stat(path))
    except FileNotFoundError:
        return False
