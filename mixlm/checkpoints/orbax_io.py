"""Orbax as it is imported here: quiet, and with its errors in one sentence."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from mixlm.errors import UserError


@contextlib.contextmanager
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

    # Every failure reaches us as an exception; what Orbax logs besides would break into the progress bar.
    logging.getLogger("absl").addFilter(_not_from_orbax)
    _hush_late_writes()
    return orbax.checkpoint


@cache
def _hush_late_writes() -> None:
    """Drops tracebacks of TensorStore's writes that end after another one failed and its event loop was closed."""
    before = sys.unraisablehook

    def unless_late(ignored: Any) -> None:
        if not (isinstance(ignored.exc_value, RuntimeError) and str(ignored.exc_value) == "Event loop is closed"):
            before(ignored)

    sys.unraisablehook = unless_late


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname
