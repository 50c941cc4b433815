"""Orbax as it is used here: imported late, its errors in one sentence, and silent where the caller asks for it."""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mixlm.errors import UserError


@contextmanager
def readable_errors(what: str) -> Iterator[None]:
    """Turns an error of the disk, TensorStore or Orbax inside of the block into a UserError that begins with `what`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # TensorStore wraps the system's error in a page of its own.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(code[1]) if code else error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else str(error).strip().split("\n")[0][:300].rstrip(".")
        raise UserError(f"{what}: {reason}.") from error


def load_orbax() -> Any:
    """Orbax's checkpoint module, imported on first use, as that takes a quarter of a second."""
    import orbax.checkpoint

    return orbax.checkpoint


def silence_orbax() -> Callable[[], None]:
    """Silences this process from now on; returns what undoes it.

    Orbax's log lines would break into a progress bar. After a failed write, TensorStore's other writes end when their
    event loop is closed, each with a traceback from `sys.unraisablehook`.
    """
    # Before its logger is asked for: where another made it first, absl names itself as the place of every message.
    import absl.logging  # noqa: F401

    before, logger = sys.unraisablehook, logging.getLogger("absl")

    def unless_late(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    def undo() -> None:
        logger.removeFilter(not_from_orbax)
        if sys.unraisablehook is unless_late:
            sys.unraisablehook = before

    def not_from_orbax(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    logger.addFilter(not_from_orbax)
    sys.unraisablehook = unless_late
    return undo


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """Silences Orbax within this; afterwards the process is as before."""
    undo = silence_orbax()
    try:
        yield
    finally:
        undo()
