"""Progress of an evaluation in tokens that the network reads: a bar with the time left, or a line now and then."""

import time

from mixlm.reports.metrics import Progress

QUIET = 10.0  # Ours: seconds between two lines, so that a minute's evaluation has few in its log.


class Watch:
    """Is told of every batch; a bar says its mode and the time left, and where there is none so do sparse lines."""

    def __init__(self, total: int) -> None:
        self._progress, self._done = Progress(total, 0), 0
        self._name, self._said = "", time.monotonic()

    def __call__(self, name: str, tokens: int) -> None:
        """The network has read so many more tokens, in the mode of this name."""
        self._done += tokens
        now = time.monotonic()
        if now - self._said < QUIET and (name == self._name or not self._progress.watched):
            self._progress.advance(self._done)
            return
        self._progress.update(self._done, name, {})
        self._name, self._said = name, now

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()
