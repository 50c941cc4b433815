"""Meshes that cross processes: two and four processes of two devices are one run, and each reads its own rows."""

import http.server
import json
import shutil
import threading
from pathlib import Path

import jax
import pytest
from jax._src.clusters import cloud_tpu_cluster
from support.process_runs import DEVICES, STOPPED, Run, assert_equal_runs, at_step
from support.small_run import recipe

from mixlm.parallel.processes import ProcessSpec, process_spec
from mixlm.training import run as loop


def reading(noted: Path) -> str:
    """A driver that notes which rows of which step a process asks for, in a file: Gloo writes to stdout."""
    return f"""
import json
from mixlm.data.loader.epochs import Repeated
from mixlm.training import ledger, report
ledger.yardsticks = report.yardsticks = lambda *_: {{}}  # for which process 0 reads rows of all
rows, file = Repeated.rows, open({str(noted)!r}, "a", buffering=1)
def noted(self, step, batch_size, places, *others):
    file.write(json.dumps({{"step": int(step), "rows": [int(place) for place in places]}}) + "\\n")
    return rows(self, step, batch_size, places, *others)
Repeated.rows = noted
"""


def rows_read(noted: Path) -> dict[int, set[int]]:
    """The rows of each step that a process has read."""
    lines = [json.loads(line) for line in noted.read_text().splitlines()]
    assert lines
    found = {}
    for line in lines:
        found.setdefault(line["step"], set()).update(line["rows"])
    return found


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    """The run by one process on one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: DEVICES[:1])
        made = recipe(str(corpus), str(tmp_path_factory.mktemp("alone") / "run"))
        loop.train(made, say=lambda _: None)
    return made


@pytest.fixture(scope="module")
def begun(corpus, tmp_path_factory):
    """A run by two processes of two devices, parameters and their products cut over all four; it stops midway."""
    folder = tmp_path_factory.mktemp("two") / "run"
    drivers = {process: reading(folder.parent / f"read{process}") for process in range(2)}
    drivers[0] += at_step(4, STOPPED)
    return folder, Run(corpus, folder, 2, 2, drivers, mesh={"data": 1, "tensor": 4}).ended()


@pytest.fixture(scope="module")
def ended(begun, corpus, tmp_path_factory):
    """The same run by four processes of two devices: fsdp crosses them, tensor lies within each."""
    folder = tmp_path_factory.mktemp("four") / "run"
    shutil.copytree(begun[0], folder)
    drivers = {process: reading(folder.parent / f"read{process}") for process in range(4)}
    return folder, Run(corpus, folder, 4, 2, drivers, mesh={"data": 1, "fsdp": 4, "tensor": 2}).ended()


@pytest.mark.slow
def test_a_run_goes_from_two_processes_to_four_and_from_tensor_to_fsdp(begun, ended, alone, corpus, monkeypatch):
    assert [code for code, _, _ in begun[1]] == [75] * 2, begun[1]  # stopped, to be started again
    assert [code for code, _, _ in ended[1]] == [0] * 4, "".join(errors for _, _, errors in ended[1])
    assert "of 2 processes, mesh data 1 x fsdp 1 x sequence 1 x tensor 4" in begun[1][0][1]
    assert "resuming after step" in ended[1][0][1] and "of 4 processes" in ended[1][0][1]
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])
    assert_equal_runs(recipe(str(corpus), str(ended[0])), alone)


@pytest.mark.slow
def test_processes_that_share_rows_read_them_all(begun):
    for process in range(2):
        read = rows_read(begun[0].parent / f"read{process}")
        assert set(map(frozenset, read.values())) == {frozenset(range(8))}


@pytest.mark.slow
def test_each_process_reads_its_own_rows_and_no_others(ended):
    for process in range(4):
        read = rows_read(ended[0].parent / f"read{process}")
        assert set(map(frozenset, read.values())) == {frozenset({2 * process, 2 * process + 1})}
        # From the first step after the checkpoint on, and not before.
        assert set(range(min(read), 12)) <= set(read) and min(read) >= 4


# A TPU pod, by the answers of its metadata server.


@pytest.fixture
def pod(monkeypatch):
    """Sets what the metadata server of a TPU virtual machine says."""
    answers: dict[str, str] = {}

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            assert self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if name in answers else 404)
            self.end_headers()
            self.wfile.write(answers.get(name, "").encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
    # What JAX finds out when it is imported: whether there are chips.
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    monkeypatch.setattr(cloud_tpu_cluster.time, "sleep", lambda _: None)
    yield answers
    server.shutdown()
    thread.join()
    server.server_close()


# JAX reads a pod's environment with a call that Python 3.13 deprecates.
OF_JAX = pytest.mark.filterwarnings("ignore:'maxsplit' is passed as positional argument:DeprecationWarning")
HOSTS = "a:0:10.0.0.1,b:1:10.0.0.2,c:2:10.0.0.3,d:3:10.0.0.4"


@OF_JAX
def test_the_same_command_on_every_host_of_a_pod_is_one_run(pod):
    for worker in range(4):
        pod |= {"agent-worker-number": str(worker), "worker-network-endpoints": HOSTS, "tpu-env": "ZONE: 'here'"}
        assert process_spec() == ProcessSpec("10.0.0.1:8482", 4, worker)
    # The flags still have the last word.
    assert process_spec("elsewhere:7", 2, 1) == ProcessSpec("elsewhere:7", 2, 1)


@OF_JAX
def test_several_slices_are_one_run(pod):
    slices = "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.9.9:8081'"
    pod |= {"agent-worker-number": "3", "worker-network-endpoints": HOSTS, "tpu-env": slices}
    assert process_spec() == ProcessSpec("10.0.9.9:8482", 8, 7)


def test_a_host_of_its_own_stands_alone(pod):
    pod |= {"agent-worker-number": "0", "worker-network-endpoints": "a:0:10.0.0.1", "tpu-env": ""}
    assert process_spec() is None


def test_a_pod_of_kubernetes_is_one_run(pod, monkeypatch):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "10.0.0.5,10.0.0.6")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    pod["tpu-env"] = ""
    assert process_spec() == ProcessSpec("10.0.0.5:8482", 2, 1)
