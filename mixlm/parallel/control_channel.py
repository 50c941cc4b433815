"""Control channel between the processes of a run: one TCP connection to process 0 each, which reports a lost peer.

JAX's own coordination traffic goes over the same port. JAX ends a process with a page of C++ traces as soon as its
connection to process 0 breaks; a relay between the two keeps that connection open while the cause is printed.
"""

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from mixlm.errors import UserError
from mixlm.files import parse_json

# Ours. A killed process is heard of at once, as its connection closes; only a machine or a network that goes silent
# takes BEAT * PATIENCE seconds, which must be less than the 100 of JAX's own heartbeat.
BEAT = 5.0
PATIENCE = 12
ARRIVAL = 300.0  # Seconds; JAX's own limit. Hosts of a pod start minutes apart.

Message = dict[str, Any]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ControlChannel:
    """Carries messages (objects of JSON) between process 0 at `address` and each of the other processes.

    `heard(sender, message)` and `gone(sender, why)` are called on the channel's own thread. `send` reaches every other
    process from process 0, and process 0 from the others. Nothing that comes in is run or unpickled.
    """

    def __init__(
        self,
        address: str,
        count: int,
        index: int,
        heard: Callable[[int, Message], None],
        gone: Callable[[int, str], None],
    ):
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"The coordinator's address {address!r} is not HOST:PORT.")
        self.address, self.host, self.port = address, host.strip("[]"), int(port)
        self.count, self.index = count, index
        self._on_message, self._on_lost = heard, gone
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._left: set[int] = set()
        self._all_here = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        # A port of this machine alone: JAX's service in process 0, the relay to it in the others.
        self._local_port = _free_port()
        threading.Thread(target=self._loop.run_forever, name="control-channel", daemon=True).start()

    def open(self, arrival: float = ARRIVAL) -> str:
        """Returns when every process is here, with the address that JAX shall use; UserError after `arrival` s."""
        if self.index == 0:
            self._run(self._listen())
            self._all_here.wait(arrival)
            missing = [str(index) for index in range(1, self.count) if index not in self._writers]
            if missing:
                named = f"Process {missing[0]} has" if len(missing) == 1 else f"Processes {', '.join(missing)} have"
                raise UserError(f"{named} not come to {self.address} in {arrival:.0f} s: start it with this command.")
        else:
            self._run(self._call(time.monotonic() + arrival))
            self._run(self._relay_locally())
        self._loop.call_soon_threadsafe(self._start, self._beat())
        return f"127.0.0.1:{self._local_port}"

    def send(self, message: Message) -> None:
        """Sends from any thread; what cannot be delivered any more is dropped, as `gone` says why."""
        line = json.dumps(message).encode() + b"\n"
        self.soon(lambda: self._write(line))

    def _write(self, line: bytes) -> None:
        for writer in self._writers.values():
            writer.write(line)

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def soon(self, act: Callable[[], object], after: float = 0.0) -> None:
        """Calls `act` on the channel's thread, `after` seconds from now."""
        self._loop.call_soon_threadsafe(lambda: self._loop.call_later(after, act) if after else act())

    def hang_up(self, seconds: float) -> None:
        """Ends this line when what was sent is on its way; process 0 waits for the others to do so. JAX's stays."""
        if self.index:
            self.soon(self._close)
        until = time.monotonic() + seconds
        while self.index == 0 and len(self._left) < len(self._writers) and time.monotonic() < until:
            time.sleep(0.02)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # The loop itself holds tasks only weakly.
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        # Who is only called from this machine need not answer others.
        local = self.host if self.host in ("localhost", "127.0.0.1", "::1") else None
        try:
            self._server = await asyncio.start_server(self._answer, local, self.port)
        except OSError as error:
            raise UserError(
                f"Process 0 cannot listen at {self.address} ({_reason(error)}); choose another port."
            ) from None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Process 0: a line of another process, or one of its connections to JAX's service."""
        try:
            hello: Message = parse_json(await reader.readline(), "The first line", dict)
            if hello.get("to") == "jax":
                await _relay((reader, writer), await _connect("127.0.0.1", self._local_port, None), stays=False)
                return
            index, fault = hello.get("process"), self._refusal(hello)
            if fault or index is None:
                writer.write(json.dumps({"leave": [fault, 2]}).encode() + b"\n")
                await writer.drain()
                writer.close()
                return
            self._writers[index] = writer
            if len(self._writers) == self.count - 1:
                self._all_here.set()
            await self._hear(index, reader)
        except (OSError, ValueError):
            writer.close()  # a stranger, who would wait

    def _refusal(self, hello: Message) -> str | None:
        index, count = hello.get("process"), hello.get("processes")
        if count != self.count:
            return f"Process 0 was started as one of {self.count} processes and this one as one of {count}."
        if type(index) is not int or not 0 < index < self.count:
            return f"There is no process {index} of {self.count}."
        return f"Two processes were started as process {index} of {self.count}." if index in self._writers else None

    async def _call(self, until: float) -> None:
        """Another process: its line to process 0."""
        try:
            reader, writer = await _connect(self.host, self.port, until)
        except OSError as error:
            raise UserError(
                f"Process 0 does not answer at {self.address} ({_reason(error)}): is it running there?"
            ) from None
        hello = {"process": self.index, "processes": self.count}
        writer.write(json.dumps(hello).encode() + b"\n")
        self._writers[0] = writer
        self._start(self._hear(0, reader))

    async def _relay_locally(self) -> None:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                onward = await _connect(self.host, self.port, None)
                onward[1].write(b'{"to": "jax"}\n')
                await _relay((reader, writer), onward, stays=True)

        self._server = await asyncio.start_server(relay, "127.0.0.1", self._local_port)

    async def _hear(self, sender: int, reader: asyncio.StreamReader) -> None:
        silent, why = 0, "its connection closed without a word, so it was killed or its machine failed"
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), BEAT)
            except TimeoutError:
                # Counted, not measured: a thread that was starved itself must not take the others for silent.
                silent += 1
                if silent > PATIENCE:
                    why = f"nothing was heard of it for {BEAT * PATIENCE:.0f} s"
                    break
                continue
            except OSError:
                break
            except ValueError:
                why = "it sent a line beyond any message"
                break
            if not line.endswith(b"\n"):
                break
            silent = 0
            try:
                if line != b"{}\n":
                    self._on_message(sender, parse_json(line, "A message", dict))
            except (TypeError, ValueError):
                why = f"it sent {line[:40]!r}, which is no message of this version"
                break
        self._left.add(sender)
        self._on_lost(sender, why)

    async def _beat(self) -> None:
        while True:
            self._write(b"{}\n")
            await asyncio.sleep(BEAT)


async def _connect(host: str, port: int, until: float | None) -> Streams:
    """Tries again until somebody listens there; raises the last failure at `until` (monotonic seconds)."""
    while True:
        try:
            return await asyncio.open_connection(host, port)
        except OSError:
            if until is not None and time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


async def _relay(near: Streams, far: Streams, stays: bool) -> None:
    """Copies both ways until `near` closes; `stays` keeps `near` open when `far` closes."""
    back = asyncio.ensure_future(_copy(far[0], near[1]))
    if not stays:
        back.add_done_callback(lambda _: near[1].close())
    await _copy(near[0], far[1])
    far[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
