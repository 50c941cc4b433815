"""Multi-process runs: rendezvous, decisions broadcast by process 0, a common last step, and a common end.

The same command starts on every host. Process 0 alone writes files and takes decisions. In a run of one process every
function here is trivial: `broadcast(decide)` is `decide()`.
"""

import atexit
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import jax

from mixlm.errors import UserError
from mixlm.parallel.control_channel import ARRIVAL
from mixlm.parallel.process_group import ProcessGroup, SingleProcess

Value = TypeVar("Value")


@dataclass(frozen=True)
class ProcessSpec:
    """A process of a distributed run: the coordinator's HOST:PORT, the number of processes, and this one's index."""

    coordinator: str
    processes: int
    process: int
    local_devices: tuple[int, ...] | None = None  # None: all that this process sees

    def __post_init__(self) -> None:
        if self.processes < 1 or not 0 <= self.process < self.processes:
            raise UserError(f"There is no process {self.process} of {self.processes}; they count from 0.")


def process_spec(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> ProcessSpec | None:
    """The process as its flags have it, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or the
    cluster that JAX detects (TPU pods, SLURM, Open MPI, indexed jobs of Kubernetes); None for a single process.
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
    found = ProcessSpec(*given.values())  # type: ignore[arg-type]
    return found if found.processes > 1 else None


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not text.isdigit():
        raise UserError(f"{name} must be a whole number, got {text!r}.")
    return None if text is None else int(text)


def _detected() -> ProcessSpec | None:
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
        return ProcessSpec(address, count, cluster.get_process_id(), _devices_of(local))
    return None


def _devices_of(local: int | None) -> tuple[int, ...] | None:
    """The device of the `local`-th process of a host, one each as JAX has it; None: all that this process sees.

    A process that is alone on its host has all of its GPUs, and so has one that is shown a single GPU: JAX would give
    the first one of them, and the second none.
    """
    per_host = {re.sub(r"\(x\d+\)", "", text) for text in os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(",")}
    alone = per_host == {"1"} or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return None if local is None or alone or (shown and "," not in shown) else (local,)


_group: SingleProcess | ProcessGroup = SingleProcess()


def group() -> SingleProcess | ProcessGroup:
    """The processes of this run, as this one knows them."""
    return _group


@contextmanager
def join(spec: ProcessSpec | None) -> Iterator[None]:
    """Joins the processes of a run; all of them end together, with or without an error. None is a single process."""
    global _group
    if spec is None:
        yield
        return
    here, code = ProcessGroup(spec.coordinator, spec.processes, spec.process), 1
    try:
        _connect(here, spec)
        _group = here
        yield
        here.finish()
        code = 0
    except BaseException as error:
        code = here.fail(error)
        raise
    finally:
        # JAX's own farewell would wait for processes that are gone, and then abort.
        atexit.register(_exit, code)


def _connect(here: ProcessGroup, spec: ProcessSpec) -> None:
    """Waits for all processes, then initialises JAX among them."""
    address = here.channel.open()
    # JAX's handler of SIGTERM would stand in the way of ours.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        spec.processes,
        spec.process,
        local_device_ids=spec.local_devices,
        cluster_detection_method="deactivate",
        coordinator_bind_address=address if here.is_main else None,
    )


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_main() -> bool:
    """True in process 0, which alone writes files and takes decisions."""
    return _group.is_main


def broadcast(decide: Callable[[], Value]) -> Value:
    """Returns in every process what `decide` returns in process 0, a value of JSON; all call it in the same order."""
    return _group.broadcast(decide)


def main_first(make: Callable[[], Value]) -> Value:
    """Returns `make()` of this process; process 0 calls it before the others, and fills the caches that they find."""
    if not _group.is_main:
        broadcast(lambda: None)
        return make()
    try:
        return make()
    finally:
        # Where process 0 fails, the others fail by themselves.
        broadcast(lambda: None)


def check_agreement(what: dict[str, str]) -> None:
    """Raises UserError where a value differs from that of process 0, such as the seed that this process was given."""
    for name, value in broadcast(lambda: what).items():
        if what.get(name) != value:
            raise UserError(
                f"Process {jax.process_index()} was started with {name} {what.get(name)}, and process 0 with {value}."
            )
