"""Signals that ask a run to stop: the first one saves and stops after the step, the second one ends it at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mixlm.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Schedulers send one of them ahead of a time limit; they are taken only where nobody else has taken them.
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """The signals that a run gets: outside of the loop they raise Stopped, within it they are deferred."""

    def __init__(self) -> None:
        self.outcome: Callable[[], str] = lambda: "nothing was begun"
        self._noted: Callable[[str], object] | None = None
        self._raised: Stopped | None = None
        self._before: dict[signal.Signals, Any] = {}

    @contextmanager
    def handled(self) -> Iterator["Signals"]:
        """Installs the handlers; does nothing outside of the main thread, which alone can."""
        try:
            for number in SIGNALS + WARNINGS:
                if number in SIGNALS or _is_free(signal.getsignal(number)):
                    self._before[number] = signal.signal(number, self._come)
        except ValueError:
            pass
        try:
            yield self
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self, note: Callable[[str], object]) -> Iterator[None]:
        """Inside of the block the first signal only calls `note` with its name; the second one acts at once.

        Raises Stopped where a signal has come before and what it interrupted, such as a destructor, has swallowed it.
        """
        if self._raised is not None:
            raise self._raised
        self._noted = note
        try:
            yield
        finally:
            self._noted = None

    def _come(self, number: int, _frame: object) -> None:
        name = signal.Signals(number).name
        if self._noted is None:
            self._raised = Stopped(name, self.outcome())
            raise self._raised
        # Python's own handler of SIGINT would wait for what the main thread does: nothing is to be waited for now.
        for each, handler in self._before.items():
            # Nor is it to be passed over, as a shell has it for what it starts in the background.
            ours = callable(handler) and handler is not signal.default_int_handler
            signal.signal(each, handler if ours else signal.SIG_DFL)
        self._noted(name)


def _is_free(handler: Any) -> bool:
    """True for the handler of a signal that nobody took, or that a study took, whose runs are within it."""
    return handler is signal.SIG_DFL or getattr(handler, "__func__", None) is Signals._come
