"""SIGINT and SIGTERM: what can be saved is saved, what cannot is left as it is, and a second signal leaves at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal came where there is nothing to save; the message says what stands."""

    def __init__(self, name: str, stands: str):
        super().__init__(f"{name} came: {stands}; the same command goes on from there.")
        self.code = 128 + signal.Signals[name].value


class Signals:
    """The signals that a run gets while `awaited`: outside of the loop they raise Stopped, within it they are noted."""

    def __init__(self) -> None:
        self.stands: Callable[[], str] = lambda: "nothing was begun"
        self._noted: Callable[[str], object] | None = None
        self._before: dict[signal.Signals, Any] = {}

    @contextmanager
    def awaited(self) -> Iterator["Signals"]:
        """Takes the signals over; does nothing outside of the main thread, which alone can."""
        try:
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._come)
        except ValueError:
            pass
        try:
            yield self
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @contextmanager
    def noted(self, note: Callable[[str], object]) -> Iterator[None]:
        """While this lasts, the first signal calls `note` with its name, and nothing else; the second acts at once."""
        self._noted = note
        try:
            yield
        finally:
            self._noted = None

    def _come(self, number: int, _frame: object) -> None:
        name = signal.Signals(number).name
        if self._noted is None:
            raise Stopped(name, self.stands())
        # Python's own handler of SIGINT would wait for what the main thread does: nothing is to be waited for now.
        for each, handler in self._before.items():
            # Nor is it to be passed over, as a shell has it for what it starts in the background.
            ours = callable(handler) and handler is not signal.default_int_handler
            signal.signal(each, handler if ours else signal.SIG_DFL)
        self._noted(name)
