"""Several processes are one run: they find each other, agree, stop after the same step, and end when one of them does.

The same command starts on every host. Process 0 alone writes and decides; a run of one process needs none of this, and
every function here is then the plain thing.
"""

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import jax

from mixlm.errors import UserError
from mixlm.parallel.peers import Alone, Peers
from mixlm.parallel.wire import ARRIVAL

Value = TypeVar("Value")


@dataclass(frozen=True)
class Place:
    """Where a process stands: the coordinator's HOST:PORT, how many processes there are, and which one this is."""

    coordinator: str
    processes: int
    process: int
    local_devices: tuple[int, ...] | None = None  # None: all that this process sees

    def __post_init__(self) -> None:
        if self.processes < 1 or not 0 <= self.process < self.processes:
            raise UserError(f"There is no process {self.process} of {self.processes}; they count from 0.")


def place(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> Place | None:
    """Where this process stands by its flags, by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by
    the cluster that JAX detects (TPU pods, SLURM, Open MPI, indexed jobs of Kubernetes); None where it stands alone.
    """
    given = {
        "--coordinator": coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS"),
        "--processes": _number("JAX_NUM_PROCESSES") if processes is None else processes,
        "--process": _number("JAX_PROCESS_ID") if process is None else process,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return _detected()
    if missing:
        raise UserError(
            f"A run of several processes needs --coordinator=HOST:PORT, --processes=N and --process=I; "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."
        )
    found = Place(*given.values())  # type: ignore[arg-type]
    return found if found.processes > 1 else None


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not text.isdigit():
        raise UserError(f"{name} must be a whole number, got {text!r}.")
    return None if text is None else int(text)


def _detected() -> Place | None:
    # JAX detects clusters only while it initialises, and we must know the address before.
    from jax._src.clusters import ClusterEnv

    for cluster in ClusterEnv._cluster_types:
        # Any pod of Kubernetes would be asked, and warned about, where only an indexed job has several processes.
        bare = cluster.__name__ == "K8sCluster" and "JOB_COMPLETION_INDEX" not in os.environ
        if cluster.opt_in_only_method or bare or not cluster.is_env_present():
            continue
        count = cluster.get_process_count()
        if count == 1:
            return None
        port = os.environ.get("JAX_COORDINATOR_PORT")
        address = cluster.get_coordinator_address(timeout_secs=int(ARRIVAL), override_coordinator_port=port)
        local = None if cluster.__name__.endswith("TpuCluster") else cluster.get_local_process_id()
        return Place(address, count, cluster.get_process_id(), None if local is None else (local,))
    return None


_peers: Alone | Peers = Alone()


def peers() -> Alone | Peers:
    """What this process knows of the others."""
    return _peers


@contextmanager
def joined(place: Place | None) -> Iterator[None]:
    """Inside, this process is the one of its `place`; all of them leave together, whether well or not."""
    global _peers
    if place is None:
        yield
        return
    here, code = Peers(place.coordinator, place.processes, place.process), 1
    try:
        _connect(here, place)
        _peers = here
        yield
        here.finish()
        code = 0
    except BaseException as error:
        code = here.fail(error)
        raise
    finally:
        # JAX's own farewell would wait for processes that are gone, and then abort.
        atexit.register(_exit, code)


def _connect(here: Peers, place: Place) -> None:
    """Waits for all processes, then initialises JAX among them."""
    address = here.wire.open()
    # JAX's handler of SIGTERM would stand in the way of ours.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        place.processes,
        place.process,
        local_device_ids=place.local_devices,
        cluster_detection_method="deactivate",
        coordinator_bind_address=address if here.first else None,
    )


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def first() -> bool:
    """Whether this process is the one that writes and decides."""
    return _peers.first


def agreed(decide: Callable[[], Value]) -> Value:
    """What process 0 decides (as JSON holds it), in every process; all must call this in the same order."""
    return _peers.agreed(decide)


def after_first(make: Callable[[], Value]) -> Value:
    """What every process makes, process 0 before the others: it fills the caches that they find."""
    if not _peers.first:
        agreed(lambda: None)
        return make()
    try:
        return make()
    finally:
        # What process 0 cannot make, the others shall find out for themselves.
        agreed(lambda: None)


def check_same(what: dict[str, str]) -> None:
    """Raises UserError where this process says something else than process 0."""
    for name, value in agreed(lambda: what).items():
        if what.get(name) != value:
            raise UserError(
                f"Process {jax.process_index()} was started with {name} {what.get(name)}, and process 0 with {value}."
            )
