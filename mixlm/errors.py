"""The exception that a user's mistake raises, and the nearest known name for a wrong one."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user asked for; its message is one sentence that names the thing and the way out."""


class NotHere(UserError):
    """A text or a vocabulary that was not given or is not on this machine; a run can be explained without it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'X'?" for the known name closest to `name`, or "" when none is close."""
    candidates = {known_name.lower(): known_name for known_name in known}
    close = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.6)
    return f" Did you mean {candidates[close[0]]!r}?" if close else ""
