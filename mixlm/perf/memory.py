"""Memory that a program needs against memory that is there, estimated before anything is allocated."""

import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mixlm.errors import UserError

# The limit of a container: version 2 of the kernel's control groups, then version 1 (docs.kernel.org, cgroup-v2).
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Need:
    """Bytes that are held at once, at least; `what` are they, and `remedy` is how to make them fewer."""

    what: str
    bytes: int
    remedy: str


def host_bytes() -> int:
    """The memory of this machine that this process may have: the least of its RAM and its limits."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    if (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        limits.append(most)
    for path in _CGROUPS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(limits)


def device_bytes(devices: Sequence[Any]) -> int | None:
    """The memory of each of these devices; those of a CPU share the host's. None where it is not known."""
    own = [device for device in devices if device.process_index == jax.process_index()]
    if not own:
        return None
    if own[0].platform == "cpu":
        return host_bytes() // len(own)
    try:
        found = own[0].memory_stats()
    except jax.errors.JaxRuntimeError:  # a device that is compiled for and not here
        return None
    return None if found is None else found.get("bytes_limit")


def shortage(who: str, needs: Sequence[Need], held: int | None, where: str) -> str | None:
    """The sentence that says that `needs` together are more than the `held` bytes of `where`; None where they fit."""
    total = sum(need.bytes for need in needs)
    if held is None or total <= held:
        return None
    most = max(needs, key=lambda need: need.bytes)
    return (
        f"{who} needs at least {gigabytes(total)} and {where} has {gigabytes(held)}: "
        f"{most.what} {'are' if len(needs) == 1 else 'alone are'} {gigabytes(most.bytes)}; {most.remedy}."
    )


def check_fits(who: str, needs: Sequence[Need], held: int | None, where: str) -> None:
    """Raises UserError with the sentence of `shortage`, if there is one."""
    if (said := shortage(who, needs, held, where)) is not None:
        raise UserError(said)


def gigabytes(number: float) -> str:
    """Bytes in GiB, with a unit that stays comparable: 2**34 -> '16.0 GiB'."""
    return f"{number / 2**30:,.1f} GiB"
