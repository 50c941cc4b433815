"""Verdicts on kernels: each is compared once on a device, and remembered beside the executables where it is right.

A kernel is known by a text with everything that its code depends on; device, JAX and its backend's version are added.
Only what was right is kept on disk: what differed may have been a device that was full, and is compared again.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import jax
import jaxlib

from mixlm import files
from mixlm.errors import UserError
from mixlm.parallel.processes import is_main
from mixlm.perf.compilation_cache import SETTINGS

NAME = "kernels.json"  # in the folder of executables: what was seen to be right, by `known_as`
Compare = Callable[[], str]  # how a kernel differs, "" where it does not

_verdicts: dict[str, str] = {}
_warned: set[str] = set()
_lock = threading.RLock()
_say: list[Callable[[str], object]] = []
_noted: ContextVar[dict[str, Compare] | None] = ContextVar("noted", default=None)


def known_as(kernel: str) -> str:
    """The kernel with the device and the versions that it is right on."""
    device = jax.local_devices()[0]
    backend = " ".join(str(getattr(device.client, "platform_version", "")).split())
    return f"{kernel}; {device.device_kind}; jax {jax.__version__}, jaxlib {jaxlib.__version__}; {backend}"


def difference(kernel: str, compare: Compare) -> str:
    """The difference of a kernel from what it should compute, "" where it does not; compared once.

    It may be asked for while something is traced: the comparison has a thread of its own, where nothing is. What
    `compare` raises counts as a difference.
    """
    noted = _noted.get()
    if noted is not None:
        noted[kernel] = compare
        return ""
    with _lock:
        if kernel not in _verdicts:
            _verdicts[kernel] = "" if known_as(kernel) in _right() else _compared(compare)
            if not _verdicts[kernel]:
                _remember(kernel)
        return _verdicts[kernel]


def settle(kernel: str, verdict: str) -> None:
    """Takes over a verdict that another process has found."""
    with _lock:
        _verdicts[kernel] = verdict


def warn(line: str) -> None:
    """Says a line once: by `told`, else on stderr."""
    with _lock:
        if line in _warned:
            return
        _warned.add(line)
    (_say[-1] if _say else _on_stderr)(line)


@contextmanager
def told(say: Callable[[str], object]) -> Iterator[None]:
    """Inside, `say` gets the warnings, from whichever thread."""
    _say.append(say)
    try:
        yield
    finally:
        _say.remove(say)


@contextmanager
def noted() -> Iterator[dict[str, Compare]]:
    """Inside, kernels are taken to be right; yields those that were asked for."""
    found: dict[str, Compare] = {}
    before = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(before)


def forget() -> None:
    """Forgets the verdicts of this process, not those on disk."""
    with _lock:
        _verdicts.clear()
        _warned.clear()


def _compared(compare: Compare) -> str:
    def run() -> str:
        try:
            return compare()
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            return f"does not run ({type(error).__name__}: {lines[0][:200]})"

    with ThreadPoolExecutor(1, thread_name_prefix="kernel") as apart:
        return apart.submit(run).result()


def _file() -> Path | None:
    folder = getattr(jax.config, SETTINGS[0])
    return None if not folder else Path(folder) / NAME


def _right() -> list[str]:
    path = _file()
    try:
        found = files.read_json(path, list) if path is not None and path.exists() else []
    except UserError:  # A torn file of a cache is made again.
        return []
    return [each for each in found if isinstance(each, str)]


def _remember(kernel: str) -> None:
    path = _file()
    if path is None or not is_main():
        return
    found = sorted({*_right(), known_as(kernel)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as file:
            json.dump(found, file, indent=1)
    except OSError:  # A cache that cannot be written is compared again, and stops no run.
        return


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
