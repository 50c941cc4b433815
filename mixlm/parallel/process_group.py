"""The processes of a run as each one knows them: broadcast decisions, the common last step, the end of a peer."""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from mixlm.errors import MISTAKE, UNFINISHED, Stopped, UserError
from mixlm.parallel.control_channel import ControlChannel, Message

HEARSAY = 1.0  # Ours: seconds after which the channel has surely reported a process that was killed.
FAREWELL = 10.0  # Ours: seconds that process 0 waits for the others to hang up.


class SingleProcess:
    """A run of one process."""

    is_main = True

    def __init__(self) -> None:
        self.describe_kept: Callable[[], str] = str
        self.stop_reason: str | None = None

    def broadcast(self, decide: Callable[[], Any]) -> Any:
        """Returns `decide()`."""
        return decide()

    def begin(self, done: int) -> None:
        """Tells that the loop begins, with `done` steps done and no stop requested."""
        self.stop_reason = None

    def request_stop(self, what: str) -> None:
        """Makes `may_step` False; a signal's handler may call it."""
        self.stop_reason = what

    def may_step(self, done: int) -> bool:
        """True where the loop, with `done` steps begun, may begin one more."""
        return self.stop_reason is None


class ProcessGroup:
    """One of several processes. Methods run on the channel's thread, unless it says otherwise."""

    def __init__(self, coordinator: str, count: int, index: int, leave: Callable[[int], object] = os._exit):
        self.count, self.index, self.is_main = count, index, index == 0
        self.describe_kept: Callable[[], str] = lambda: "nothing was begun"
        self.stop_reason: str | None = None
        self._exit = leave
        self.channel = ControlChannel(coordinator, count, index, self._heard, self._gone)
        self._decisions: queue.Queue[Any] = queue.Queue()
        self._change = threading.Condition()
        self._begun = 0
        self._last: int | None = None
        self._reached: dict[int, int] = {}
        self._finished: set[int] = set()
        self._ending = self._mistaken = False

    def broadcast(self, decide: Callable[[], Any]) -> Any:
        """Returns what `decide` returns in process 0, a value of JSON; all processes call it in the same order."""
        if not self.is_main:
            return self._decisions.get()
        value = decide()
        self.channel.send({"decision": value})
        return value

    def begin(self, done: int) -> None:
        """Tells that the loop begins, with `done` steps done."""
        with self._change:
            self._begun = done

    def request_stop(self, what: str) -> None:
        """Makes every process stop after the same step; a signal's handler may call it."""
        if self.is_main:
            self.channel.soon(lambda: self._ask(f"{what} to process 0"))
        else:
            self.channel.send({"stop": what})

    def may_step(self, done: int) -> bool:
        """True where the loop, with `done` steps begun, may begin one more; the main thread asks before each."""
        with self._change:
            # While they ask how far each has come, none may go on: the one that is ahead is where all stop.
            self._change.wait_for(lambda: self.stop_reason is None or self._last is not None)
            if self._last is not None and done >= self._last:
                return False
            self._begun = done + 1
            return True

    def _ask(self, what: str) -> None:
        if self.stop_reason is None:
            self.channel.send({"ask": what})
            self._hold(what)

    def _hold(self, what: str) -> None:
        with self._change:
            self.stop_reason, begun = what, self._begun
        if self.is_main:
            self._reach(0, begun)
        else:
            self.channel.send({"reached": begun})

    def _reach(self, sender: int, begun: int) -> None:
        self._reached[sender] = begun
        if len(self._reached) == self.count:
            last = max(self._reached.values())
            self.channel.send({"last": last})
            self._stop_after(last)

    def _stop_after(self, last: int) -> None:
        with self._change:
            self._last = last
            self._change.notify_all()

    def _heard(self, sender: int, message: Message) -> None:
        ((what, value),) = message.items()
        if what == "decision":
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
            self._leave(f"Process {index} of {self.count} is gone: {why}.", UNFINISHED)

    def _leave(self, why: str, code: int) -> None:
        """Ends the process from the channel's thread: the main one may be held in a collective that will never end."""
        # Where all make one mistake, each says it in its own words.
        if self._ending or (self._mistaken and code == MISTAKE):
            return
        self._ending = True
        if self.is_main:
            self.channel.send({"leave": [why, code]})
        try:
            kept = self.describe_kept() if code == UNFINISHED else ""
        except (OSError, UserError):
            kept = "what was kept cannot be read"
        sentence = f"{why} {kept[0].upper()}{kept[1:]}; the same command goes on from there." if kept else why
        print(f"\nerror: {sentence}", file=sys.stderr, flush=True)
        self.channel.soon(lambda: self._exit(code), after=0.2)

    def finish(self) -> None:
        """Returns when all processes have finished; called by the main thread."""
        if not self.is_main:
            self.channel.send({"finished": None})
        with self._change:
            self._change.wait_for(lambda: len(self._finished) == (self.count - 1 if self.is_main else 1))
        self._ending = True
        if self.is_main:
            self.channel.send({"finished": None})
        self.channel.hang_up(FAREWELL)

    def fail(self, error: BaseException) -> int:
        """Tells the others why this process ends, and returns its exit code; the main thread calls it.

        It does not return where another process was the first to end: that one's reason is the one to be said. All that
        have stopped after the same step finish together.
        """
        if isinstance(error, Stopped) and error.everywhere:
            self.finish()
            return error.code
        self._mistaken = isinstance(error, UserError)
        if not isinstance(error, KeyboardInterrupt):
            # A collective fails when a process is killed; the channel knows which one it was.
            time.sleep(HEARSAY)
        if self._ending:
            threading.Event().wait()
        self._ending = True
        code, why = _reason(error)
        if self.is_main:
            self.channel.send({"leave": [f"Process 0 of {self.count} ended: {why}", code]})
        else:
            self.channel.send({"ended": [why, code]})
        self.channel.hang_up(FAREWELL)
        return code


def _reason(error: BaseException) -> tuple[int, str]:
    """The exit code and the line for what ends a process."""
    if isinstance(error, Stopped):
        return error.code, f"{error.name} came."
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, UserError):
        return MISTAKE, " ".join(str(error).split())
    first_line = str(error).strip().partition("\n")[0]
    return 1, f"{type(error).__name__}: {first_line}"
