"""Generated programs: none ends this machine's work, touches its network or its files, or passes without its tests."""

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mixlm.errors import UserError
from mixlm.evaluation.tasks.pass_at_k import PassAtK
from mixlm.evaluation.tasks.programs import Limits, NotPermitted, permitted, run_program, run_programs

WAITS = "import time\ntime.sleep(60)"
LIMITS = Limits(30.0, 2**28, namespaces=False)  # what holds everywhere
ENDS = {
    "assert 1 + 1 == 2": "",
    "assert 1 + 1 == 3": "AssertionError",
    "import os, math, asyncio\nassert os.listdir() == [] and not os.environ.get('HOME')": "",
    "open('own', 'w').write('x'); assert open('own').read() == 'x'": "",
    "import threading\nother = threading.Thread(target=print); other.start(); other.join()": "PermissionError",
    "def f(": "SyntaxError",
    # Nothing that ends early has passed.
    "raise SystemExit(0)": "SystemExit",
    "import os; os._exit(0)": "killed",
    # Memory, files, output.
    "x = 'x' * 10**9": "MemoryError",
    "f = open('big', 'w')\nwhile True: f.write('x' * 10**6)": "OSError",
    "for _ in range(2000): print('x' * 10**6)": "",
    # Processes, by every way that there is.
    "import os\nwhile True: os.fork()": "PermissionError",
    "import os; os.system('true')": "PermissionError",
    "import os; os.execv('/bin/true', ['true'])": "PermissionError",
    "import subprocess; subprocess.run(['true'])": "PermissionError",
    "import multiprocessing as m\nm.get_context('spawn').Process(target=print).start()": "PermissionError",
    "import os; os.kill(os.getppid(), 9)": "PermissionError",
    # Native code, with which all else could be undone; the network; other people's files.
    "import ctypes; ctypes.CDLL(None)": "PermissionError",
    "import socket; socket.socket()": "PermissionError",
    "import urllib.request as r; r.urlopen('http://127.0.0.1:PORT/')": "URLError",
    "open('PLACE', 'w')": "PermissionError",
    "import os; os.remove('PLACE')": "PermissionError",
    "import os; os.symlink('PLACE', 'own'); open('own', 'w')": "PermissionError",
    "import shutil; shutil.rmtree('FOLDER')": "PermissionError",
}


def test_no_program_reaches_further_than_its_folder(tmp_path):
    place = tmp_path / "kept.txt"
    place.write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.01)

        def run(program):
            names = {"PORT": str(server.getsockname()[1]), "PLACE": str(place), "FOLDER": str(tmp_path)}
            for name, value in names.items():
                program = program.replace(name, value)
            return run_program(program, LIMITS)

        with ThreadPoolExecutor(4) as workers:
            found = dict(zip(ENDS, workers.map(run, ENDS)))
        with pytest.raises(TimeoutError):
            server.accept()  # nobody has called
    assert found == ENDS
    assert place.read_text() == "kept"


@pytest.mark.parametrize("namespaces", [True, False])
def test_what_does_not_end_is_ended(namespaces):
    program = "import time\ntry: time.sleep(60)\nexcept BaseException: pass\ntime.sleep(60)"
    began = time.monotonic()
    assert run_program(program, Limits(0.3, 2**28, namespaces=namespaces)) == "TimeoutError"
    assert time.monotonic() - began < 60


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are Linux's")
def test_there_is_no_network_where_the_kernel_grants_namespaces():
    program = "import os\nassert os.getpid() == 1 and open('/proc/net/dev').read().count(':') == 1"
    if run_program("import os\nassert os.getpid() == 1", Limits(5.0)):
        pytest.skip("this kernel grants no namespaces to this user")
    assert run_program(program, Limits(5.0)) == ""


def test_programs_are_run_only_where_that_is_permitted():
    metric = PassAtK((1, 2), Limits(5.0, 2**28))
    problems = ["assert f(1) == 2", "assert f(3) == 3"]
    said = [["def f(x): return x + 1", "def f(x): return 2", "f"], ["def f(x): return x", "1", WAITS]]
    with pytest.raises(NotPermitted, match="only where --run_generated_code is given"):
        metric(problems, said)
    with permitted():
        assert run_programs([]) == []
        quick = PassAtK((1, 2), Limits(2.0, 2**28))(problems, said)
        with pytest.raises(UserError, match=r"pass@2 needs 2 samples of each problem, and there are 1: raise METRIC_S"):
            metric(problems, ["a", "b"])
    # 2 of 3 and 1 of 3 pass: pass@2 is 1 - C(1, 2) / C(3, 2) = 1, and 1 - C(2, 2) / C(3, 2) = 2/3.
    assert quick == {"pass@1": pytest.approx(50), "pass@2": pytest.approx(500 / 6), "timed_out": pytest.approx(100 / 6)}
