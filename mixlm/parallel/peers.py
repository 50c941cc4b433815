"""The other processes of a run, as each one knows them: what is agreed, when to stop, and that one has ended."""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from mixlm.errors import UserError
from mixlm.parallel.wire import Message, Wire

# sysexits.h, "temporary failure": the same command may succeed, so a scheduler may start it again.
LOST = 75
MISTAKE = 2
HEARSAY = 1.0  # Ours: seconds after which the wire has surely told of a process that was killed.
FAREWELL = 10.0  # Ours: seconds that process 0 waits for the others to hang up.


class Alone:
    """A run of one process."""

    first = True

    def __init__(self) -> None:
        self.kept: Callable[[], str] = str
        self.asked: str | None = None

    def agreed(self, decide: Callable[[], Any]) -> Any:
        """What this process decides."""
        return decide()

    def begin(self, done: int) -> None:
        """The loop begins, with `done` steps done; nobody has asked it to stop yet."""
        self.asked = None

    def ask_to_stop(self, what: str) -> None:
        """Makes `may_go_on` False; a signal's handler may call it."""
        self.asked = what

    def may_go_on(self, done: int) -> bool:
        """Whether the loop, with `done` steps begun, may begin one more."""
        return self.asked is None


class Peers:
    """One of several processes. What is done here runs on the wire's thread, unless it says otherwise."""

    def __init__(self, coordinator: str, count: int, index: int, leave: Callable[[int], object] = os._exit):
        self.count, self.index, self.first = count, index, index == 0
        self.kept: Callable[[], str] = lambda: "nothing was begun"
        self.asked: str | None = None
        self._exit = leave
        self.wire = Wire(coordinator, count, index, self._heard, self._gone)
        self._decisions: queue.Queue[Any] = queue.Queue()
        self._change = threading.Condition()
        self._begun = 0
        self._last: int | None = None
        self._reached: dict[int, int] = {}
        self._finished: set[int] = set()
        self._ending = self._mistaken = False

    def agreed(self, decide: Callable[[], Any]) -> Any:
        """What process 0 decides (as JSON holds it); all processes must call this in the same order."""
        if not self.first:
            return self._decisions.get()
        value = decide()
        self.wire.send({"agreed": value})
        return value

    def begin(self, done: int) -> None:
        """The loop begins, with `done` steps done."""
        with self._change:
            self._begun = done

    def ask_to_stop(self, what: str) -> None:
        """Makes every process stop after the same step; a signal's handler may call it."""
        if self.first:
            self.wire.soon(lambda: self._ask(f"{what} to process 0"))
        else:
            self.wire.send({"stop": what})

    def may_go_on(self, done: int) -> bool:
        """Whether the loop, with `done` steps begun, may begin one more; the main thread asks before each."""
        with self._change:
            # While they ask how far each has come, none may go on: the one that is ahead is where all stop.
            self._change.wait_for(lambda: self.asked is None or self._last is not None)
            if self._last is not None and done >= self._last:
                return False
            self._begun = done + 1
            return True

    def _ask(self, what: str) -> None:
        if self.asked is None:
            self.wire.send({"ask": what})
            self._hold(what)

    def _hold(self, what: str) -> None:
        with self._change:
            self.asked, begun = what, self._begun
        if self.first:
            self._reach(0, begun)
        else:
            self.wire.send({"reached": begun})

    def _reach(self, sender: int, begun: int) -> None:
        self._reached[sender] = begun
        if len(self._reached) == self.count:
            last = max(self._reached.values())
            self.wire.send({"last": last})
            self._stop_after(last)

    def _stop_after(self, last: int) -> None:
        with self._change:
            self._last = last
            self._change.notify_all()

    def _heard(self, sender: int, message: Message) -> None:
        ((what, value),) = message.items()
        if what == "agreed":
            self._decisions.put(value)
        elif what == "stop":
            self._ask(f"{value} to process {sender}")
        elif what == "ask":
            self._hold(value)
        elif what == "reached":
            self._reach(sender, value)
        elif what == "last":
            self._stop_after(value)
        elif what == "finished":
            with self._change:
                self._finished.add(sender)
                self._change.notify_all()
        elif what == "leave":
            self._leave(*value)
        elif what == "ended":
            why, code = value
            self._leave(f"Process {sender} of {self.count} ended: {why}", code)

    def _gone(self, index: int, why: str) -> None:
        if index not in self._finished:
            self._leave(f"Process {index} of {self.count} is gone: {why}.", LOST)

    def _leave(self, why: str, code: int) -> None:
        """Ends the process from the wire's thread: the main one may be held in a collective that will never end."""
        # Where all make one mistake, each says it in its own words.
        if self._ending or (self._mistaken and code == MISTAKE):
            return
        self._ending = True
        if self.first:
            self.wire.send({"leave": [why, code]})
        try:
            kept = self.kept() if code == LOST else ""
        except (OSError, UserError):
            kept = "what was kept cannot be read"
        sentence = f"{why} {kept[0].upper()}{kept[1:]}; the same command goes on from there." if kept else why
        print(f"\nerror: {sentence}", file=sys.stderr, flush=True)
        self.wire.soon(lambda: self._exit(code), after=0.2)

    def finish(self) -> None:
        """Ends well, when all do; called by the main thread."""
        if not self.first:
            self.wire.send({"finished": None})
        with self._change:
            self._change.wait_for(lambda: len(self._finished) == (self.count - 1 if self.first else 1))
        self._ending = True
        if self.first:
            self.wire.send({"finished": None})
        self.wire.hang_up(FAREWELL)

    def fail(self, error: BaseException) -> int:
        """Tells the others why this process ends, and returns its exit code; the main thread calls it.

        It does not return where another process was the first to end: that one's reason is the one to be said.
        """
        self._mistaken = isinstance(error, UserError)
        if not isinstance(error, KeyboardInterrupt):
            # A collective fails when a process is killed; the wire knows which one it was.
            time.sleep(HEARSAY)
        if self._ending:
            threading.Event().wait()
        self._ending = True
        code, why = _reason(error)
        if self.first:
            self.wire.send({"leave": [f"Process 0 of {self.count} ended: {why}", code]})
        else:
            self.wire.send({"ended": [why, code]})
        self.wire.hang_up(FAREWELL)
        return code


def _reason(error: BaseException) -> tuple[int, str]:
    """The exit code and the line for what ends a process."""
    if isinstance(error, KeyboardInterrupt):
        return getattr(error, "code", 130), str(error) or "interrupted"
    if isinstance(error, UserError):
        return MISTAKE, " ".join(str(error).split())
    first_line = str(error).strip().partition("\n")[0]
    return 1, f"{type(error).__name__}: {first_line}"
