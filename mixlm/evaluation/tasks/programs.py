"""Generated programs, each run in a confined process with an empty folder, and only where that was permitted.

A fresh interpreter without an environment, in a session of its own, with limits of CPU time, address space, file size
and processes. Where the kernel grants namespaces to this user it has no network device and no other process to see, and
all of its processes end with it; everywhere, an audit hook that cannot be taken out refuses sockets, processes,
threads, native code, and changes outside of the folder. Files of this machine that the user can read stay readable.
After the wall limit its process group is killed. See `confined`, which is what runs inside.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

from mixlm.errors import UserError

_PERMITTED: ContextVar[bool] = ContextVar("run_generated_code", default=False)
FLAG = "--run_generated_code"
SCRIPT = Path(__file__).with_name("confined.py")
ENDED, TIMED_OUT = "", "TimeoutError"
KILLED = "killed"  # by a limit, or by itself


class NotPermitted(UserError):
    """Generated programs were to be run, and the command line does not say so."""


@dataclass(frozen=True)
class Limits:
    """Limits of a program: seconds of wall time (and of CPU time, plus one), and bytes.

    Without `namespaces` the kernel is not asked for any, and the audit hook alone stands in the way.
    """

    seconds: float = 10.0
    memory: int = 2**30
    file_bytes: int = 2**24
    namespaces: bool = True


@contextlib.contextmanager
def permitted(yes: bool = True) -> Iterator[None]:
    """Within this, generated programs may be run."""
    token = _PERMITTED.set(yes)
    try:
        yield
    finally:
        _PERMITTED.reset(token)


def run_programs(programs: Sequence[str], limits: Limits = Limits()) -> list[str]:
    """The end of each program: "" as it should be, an exception's name, "TimeoutError", or "killed" by a limit.

    As many run at once as there are processors. Raises NotPermitted outside of `permitted`.
    """
    if not _PERMITTED.get():
        raise NotPermitted(f"Generated programs are run only where {FLAG} is given.")
    if sys.platform == "win32":
        raise UserError("Generated programs are confined by POSIX limits, which Windows has not: evaluate on Linux.")
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        return list(workers.map(lambda program: run_program(program, limits), programs))


def run_program(program: str, limits: Limits) -> str:
    """Runs one program; see `run_programs`. A text that UTF-8 cannot hold is no program."""
    seal = secrets.token_hex(16)
    asked = json.dumps({"program": program, "seal": seal, **asdict(limits)}).encode()
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(prefix="generated-", ignore_cleanup_errors=True) as folder:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-W", "ignore", str(SCRIPT), str(writing)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                pass_fds=(writing,),
                start_new_session=True,
            )
            ended = _ended(process, asked, limits.seconds)
            os.set_blocking(reading, False)
            said = ""
            with contextlib.suppress(BlockingIOError):
                said = os.read(reading, 1024).decode(errors="replace")
        finally:
            os.close(reading)
            os.close(writing)
    if said == seal:
        return ENDED
    return said or (KILLED if ended else TIMED_OUT)


def _ended(process: "subprocess.Popen[bytes]", asked: bytes, seconds: float) -> bool:
    """True where the process ended within the wall limit; its process group is killed in both cases."""
    try:
        with contextlib.suppress(BrokenPipeError):
            process.communicate(asked, timeout=seconds)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
