"""TensorBoard's events, in the run's folder `tensorboard`."""

import secrets
import socket
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from mixlm.paths import make_within
from mixlm.reports.trackers.base import About

FLUSH_SECONDS = 30  # Ours: what is looked at in TensorBoard may be that old.


class TensorBoard:
    """Event files, written by the caller's thread, so that a full disk is an error and not a wait without end.

    Without TensorFlow, whose import costs seconds. TensorBoard drops earlier events of the steps that come again.
    """

    library: ClassVar[str] = "tensorboardX"
    extra: ClassVar[str | None] = None

    def __init__(self, about: About) -> None:
        folder = make_within(about.folder, "tensorboard")
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        # Part of the name cannot be guessed, so that no link can wait for it.
        unique = f"{int(time.time())}.{socket.gethostname()}.{secrets.token_hex(8)}"
        self._records = RecordWriter(str(folder / f"events.out.tfevents.{unique}.from_{about.begun}"))
        self._flushed = time.monotonic()
        self._write(Event(file_version="brain.Event:2"))
        purged = about.recorded + 1 if about.begun else 0
        self._write(Event(step=purged, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds scalars as one event; they are on the disk within FLUSH_SECONDS, or when closed."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        event = Event(step=step)
        for name, number in numbers.items():
            event.summary.value.extend(scalar(name, number).value)
        self._write(event)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._records.flush()
            self._flushed = time.monotonic()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def close(self) -> None:
        """Writes what is left."""
        self._records.close()
