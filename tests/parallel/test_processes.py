"""Several processes are one run: the same numbers as one, a stop after the same step, an end that is told to all."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from functools import partial

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.places import LAUNCH
from support.process_runs import DEVICES, KILLED, STOPPED, Run, assert_equal_runs, at_step, free_port, same_parameters
from support.runs import lines
from support.small_run import recipe

from mixlm.errors import UNFINISHED, Stopped, UserError
from mixlm.parallel import control_channel
from mixlm.parallel.mesh import aligned_run
from mixlm.parallel.process_group import ProcessGroup, SingleProcess
from mixlm.parallel.processes import ProcessSpec, broadcast, main_first, process_spec
from mixlm.training import run as loop


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    """The run by one process: on one device, and on four."""
    made = {}
    for count in (1, 4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "devices", lambda *_, count=count: DEVICES[:count])
            made[count] = recipe(str(corpus), str(tmp_path_factory.mktemp("alone") / str(count)))
            loop.train(made[count], say=lambda _: None)
    return made


@pytest.fixture(scope="module")
def story(alone, corpus, tmp_path_factory):
    """A run by two processes: the second is killed, then the first, then the second gets a SIGTERM."""
    folder = tmp_path_factory.mktemp("several") / "run"
    killed = Run(corpus, folder, 2, 2, {1: at_step(4, KILLED)}).ended()
    headless = Run(corpus, folder, 2, 2, {0: at_step(7, KILLED)}).ended()
    stopped = Run(corpus, folder, 2, 2, {1: at_step(8, STOPPED)}).ended()
    return folder, killed, headless, stopped


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_one_sentence(story):
    _, ((code, _, errors), (killed, _, _)), *_ = story
    assert (code, killed) == (UNFINISHED, -9), errors
    (sentence,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert "Process 1 of 2 is gone" in sentence and "that of step 3" in sentence and "same command" in sentence
    assert "Traceback" not in errors and "stack trace" not in errors


@pytest.mark.slow
def test_a_killed_coordinator_ends_the_others_with_one_sentence(story):
    _, _, ((killed, said, left), (code, _, errors)), _ = story
    assert (code, killed) == (UNFINISHED, -9), left + errors
    assert "resuming after step 3" in said
    (sentence,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert "Process 0 of 2 is gone" in sentence and "that of step 6" in sentence
    assert "Traceback" not in errors and "stack trace" not in errors


@pytest.mark.slow
def test_a_signal_to_one_process_saves_the_same_step_of_all(story):
    folder, _, _, ((first, said, left), (second, silence, errors)) = story
    assert (first, second) == (UNFINISHED, UNFINISHED), left + errors
    assert "resuming after step 6" in said and "SIGTERM to process 1 came" in said
    assert "same command goes on from there" in left
    # Process 0 alone speaks; Gloo's own words are not ours.
    assert [line for line in silence.splitlines() if "[Gloo]" not in line] == []
    assert {int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()} & {8, 9, 10}


@pytest.mark.slow
def test_one_process_goes_on_and_ends_as_if_it_had_always_been_alone(story, alone, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])
    made = recipe(str(corpus), str(tmp_path / "one"))
    shutil.copytree(story[0], made.folder)
    loop.train(made, say=lambda _: None)
    for count in (1, 4):
        assert_equal_runs(made, alone[count])


@pytest.mark.slow
def test_four_processes_go_on_and_report(story, alone, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])
    made = recipe(str(corpus), str(tmp_path / "four"))
    shutil.copytree(story[0], made.folder)
    ended = Run(corpus, made.folder, 4, 1, mesh={"data": 2, "fsdp": 2}).ended()
    assert [code for code, _, _ in ended] == [0] * 4, "".join(errors for _, _, errors in ended)
    assert "unigram entropy" in ended[0][1] and (made.folder / "curves.png").exists()
    assert_equal_runs(made, alone[1])


@pytest.mark.slow
def test_two_processes_go_on_from_another_run(alone, corpus, tmp_path):
    changes = {"init_from": f"{alone[1].folder}@9", "init_optimizer": True}
    ended = Run(corpus, tmp_path / "fork", 2, 2, **changes).ended()
    assert [code for code, _, _ in ended] == [0] * 2, "".join(errors for _, _, errors in ended)
    assert f"after step 9 of {alone[1].folder}, with its optimizer's state" in ended[0][1]
    made = recipe(str(corpus), str(tmp_path / "fork"))
    assert [line["step"] for line in lines(made)] == list(range(10, 13))
    assert [line["loss"] for line in lines(made)] == pytest.approx(
        [line["loss"] for line in lines(alone[1])[9:]], rel=1e-5
    )
    same_parameters(made, alone[1])


# What the processes say to each other, without the processes.


@pytest.fixture
def left():
    """How processes ended, where they would have."""
    return []


def awaited(found: list, count: int) -> list:
    """What was found, when there are `count` of them or after some seconds."""
    until = time.monotonic() + 10
    while len(found) < count and time.monotonic() < until:
        time.sleep(0.01)
    return found


STOPPED_WIRES = []  # Kept, since what an event loop leaves open warns when it is collected.


@pytest.fixture(autouse=True)
def wires_stop_with_their_test(monkeypatch):
    """No control channel goes on in the background of other tests."""
    made, begin = [], control_channel.ControlChannel.__init__

    def noted(self, *given):
        begin(self, *given)
        made.append(self)

    monkeypatch.setattr(control_channel.ControlChannel, "__init__", noted)
    yield
    for each in made:
        each._loop.call_soon_threadsafe(each._loop.stop)
    STOPPED_WIRES.extend(made)


def group(count: int, left: list | None = None) -> list[ProcessGroup]:
    """ProcessGroup of one run, all in this process, connected; their threads outlive the test, and must not end it."""
    coordinator, leave = f"127.0.0.1:{free_port()}", (left if left is not None else []).append
    found = [ProcessGroup(coordinator, count, index, leave) for index in range(count)]
    together(*(peer.channel.open for peer in found))
    return found


def together(*actions):
    """Does all at once, and returns what each returned; raises what the first that failed has raised."""
    found, failed = [None] * len(actions), []

    def run(index, action):
        try:
            found[index] = action()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    if failed:
        raise failed[0]
    return found


def test_all_get_what_the_first_decides():
    here = group(3)
    for value in (None, 7, "a", [[3, "torn"]], {"seed": "0"}):
        wanted = [value, "mine", "mine"]
        assert (
            together(*(partial(each.broadcast, partial(wanted.__getitem__, each.index)) for each in here))
            == [value] * 3
        )
    together(*(peer.finish for peer in here))


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_all_stop_after_the_same_step_whoever_is_asked_and_however_far_each_is(data):
    """Processes may be two steps apart, as each waits for the figures of the last step but one."""
    count, begun = data.draw(st.integers(2, 4)), data.draw(st.integers(0, 50))
    asked, when = data.draw(st.integers(0, count - 1)), data.draw(st.integers(1, 20))
    here = group(count)
    done = [begun] * count
    change = threading.Condition()

    def steps(index):
        peer = here[index]
        peer.begin(begun)
        while peer.may_step(done[index]):
            with change:
                done[index] += 1
                change.notify_all()
                # A step's figures are there when all have begun it.
                assert change.wait_for(lambda: min(done) >= done[index] - 1, 20)
            if index == asked and done[index] == begun + when:
                peer.request_stop("SIGTERM")
        return done[index]

    stopped = together(*(lambda i=index: steps(i) for index in range(count)))
    # How many steps the request takes to go round depends on the machine; that they end is asserted by `together`.
    assert len(set(stopped)) == 1 and stopped[0] >= begun + when
    assert {peer.stop_reason for peer in here} == {f"SIGTERM to process {asked}"}
    together(*(peer.finish for peer in here))


def test_alone_stops_at_once():
    here = SingleProcess()
    here.begin(3)
    assert here.may_step(3)
    here.request_stop("SIGINT")
    assert not here.may_step(4) and here.stop_reason == "SIGINT"
    assert broadcast(lambda: 5) == 5 and main_first(lambda: 6) == 6


def test_a_mistake_of_one_is_said_by_all(left, capsys):
    here = group(3, left)
    assert here[2].fail(UserError("TEXT is empty.")) == 2
    assert awaited(left, 2) == [2, 2]
    assert capsys.readouterr().err.count("error: Process 2 of 3 ended: TEXT is empty.") == 2


def test_a_signal_before_the_first_step_is_said_by_all(left, capsys):
    here = group(3, left)
    assert here[2].fail(Stopped("SIGTERM", "nothing was begun")) == UNFINISHED
    assert awaited(left, 2) == [UNFINISHED] * 2
    said = "error: Process 2 of 3 ended: SIGTERM came. Nothing was begun; the same command goes on from there.\n"
    assert capsys.readouterr().err.count(said) == 2


def test_all_that_have_stopped_after_the_same_step_leave_together(left, capsys):
    stopped = Stopped("SIGTERM", "saved after step 3", everywhere=True)
    here = group(3, left)
    assert together(*(partial(each.fail, stopped) for each in here)) == [UNFINISHED] * 3
    assert left == [] and capsys.readouterr().err == ""


def test_a_silent_process_is_given_up(left, capsys, monkeypatch):
    monkeypatch.setattr(control_channel, "BEAT", 0.05)
    here = group(2, left)
    # Its machine hangs: the line stays open, and nothing comes.
    here[1].channel._loop.call_soon_threadsafe(threading.Event().wait, 3)
    assert awaited(left, 1)[0] == UNFINISHED
    assert "Process 1 of 2 is gone: nothing was heard of it for 1 s" in capsys.readouterr().err


def asked(port: int, line: bytes) -> bytes:
    """What a stranger that sends one line to process 0 is answered, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
        caller.sendall(line + b"\n")
        with contextlib.suppress(ConnectionResetError):  # what a long line left unread
            return b"".join(iter(partial(caller.recv, 4096), b""))
        return b""


STRANGE = [b"[" * 50_000, b"[]", b"3", b'{"process": ' + b"1" * 5000 + b"}", b"\xff", b"GET / HTTP/1.1", b"x" * 70_000]


def test_strangers_disturb_nobody():
    coordinator = f"127.0.0.1:{free_port()}"
    first, second = (ProcessGroup(coordinator, 2, index, lambda code: None) for index in range(2))
    opening = threading.Thread(target=first.channel.open, daemon=True)
    opening.start()
    port = int(coordinator.rpartition(":")[2])
    while True:  # until it listens
        with contextlib.suppress(ConnectionRefusedError):
            assert asked(port, STRANGE[0]) == b""
            break
    for line in STRANGE:
        assert asked(port, line) == b""
    for process in (True, [1], "1", None, 0, 2, -1):
        hello = json.dumps({"process": process, "processes": 2}).encode()
        assert b"There is no process" in asked(port, hello)
    second.channel.open()
    opening.join(10)
    together(first.finish, second.finish)


@pytest.mark.parametrize("line", [b"[]", b"[" * 50_000, b"\xff", b"{}{}", b"x" * 70_000, b'{"last": 1, "ask": 2}'])
def test_who_sends_what_is_no_message_is_given_up_and_not_waited_for(left, capsys, line):
    here = group(2, left)
    here[1].channel.soon(lambda: here[1].channel._write(line + b"\n"))
    assert awaited(left, 1)[0] == UNFINISHED
    assert "Process 1 of 2 is gone: it sent " in capsys.readouterr().err


def test_who_does_not_come_is_named():
    here = ProcessGroup(f"127.0.0.1:{free_port()}", 3, 0)
    with pytest.raises(UserError, match=r"Processes 1, 2 have not come to 127.0.0.1:\d+ in 0 s"):
        here.channel.open(0.1)
    other = ProcessGroup(f"127.0.0.1:{free_port()}", 2, 1)
    with pytest.raises(UserError, match=r"Process 0 does not answer at 127.0.0.1:\d+ \(.+\)"):
        other.channel.open(0.1)


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        here = ProcessGroup(f"127.0.0.1:{taken.getsockname()[1]}", 2, 0)
        with pytest.raises(UserError, match=r"cannot listen at .*Address already in use.*another port"):
            here.channel.open()


def test_a_process_that_is_there_twice_is_refused(left, capsys):
    coordinator = f"127.0.0.1:{free_port()}"
    first, second, again = (ProcessGroup(coordinator, 3, index, left.append) for index in (0, 1, 1))

    def wait():
        # The third never comes.
        with contextlib.suppress(UserError):
            first.channel.open(30)

    threading.Thread(target=wait, daemon=True).start()
    second.channel.open()
    again.channel.open()
    third = ProcessGroup(coordinator, 2, 1, left.append)
    third.channel.open()
    assert awaited(left, 2) == [2, 2]
    errors = capsys.readouterr().err
    assert "Two processes were started as process 1 of 3" in errors
    assert "Process 0 was started as one of 3 processes and this one as one of 2" in errors


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"coordinator": "a:1"}, "--processes and --process are missing"),
        ({"processes": 2, "process": 0}, "--coordinator is missing"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "no process 2 of 2"),
    ],
)
def test_half_a_place_is_a_mistake(given, words):
    with pytest.raises(UserError, match=words):
        process_spec(**given)


def test_a_coordinator_needs_a_port():
    with pytest.raises(UserError, match="'host' is not HOST:PORT"):
        ProcessGroup("host", 2, 0)


def test_the_place_comes_from_flags_or_the_environment_or_the_cluster(monkeypatch):
    assert process_spec() is None
    assert process_spec("host:1", 1, 0) is None
    assert process_spec("host:1", 2, 1) == ProcessSpec("host:1", 2, 1)
    with monkeypatch.context() as patch:
        for name, value in (("COORDINATOR_ADDRESS", "h:2"), ("NUM_PROCESSES", "4"), ("PROCESS_ID", "3")):
            patch.setenv(f"JAX_{name}", value)
        assert process_spec() == ProcessSpec("h:2", 4, 3)
        assert process_spec(process=0) == ProcessSpec("h:2", 4, 0)
        patch.setenv("JAX_PROCESS_ID", "second")
        with pytest.raises(UserError, match="JAX_PROCESS_ID must be a whole number, got 'second'"):
            process_spec()
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "node[01-02]", "NTASKS": "8", "PROCID": "5", "LOCALID": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = process_spec()
    assert (found.processes, found.process, found.local_devices) == (8, 5, (1,))
    assert found.coordinator.startswith("node01:")
    # A task has all GPUs of a host that it has for itself, and what it is shown alone.
    for name, value, devices in (
        ("SLURM_STEP_TASKS_PER_NODE", "4(x2)", (1,)),
        ("SLURM_STEP_TASKS_PER_NODE", "1,2", (1,)),
        ("SLURM_STEP_TASKS_PER_NODE", "1(x8)", None),
        ("CUDA_VISIBLE_DEVICES", "0,1,2,3", (1,)),
        ("CUDA_VISIBLE_DEVICES", "1", None),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert process_spec().local_devices == devices, (name, value)
    # An allocation's shell is one task.
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert process_spec() is None


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_a_process_reads_the_shortest_run_that_has_its_rows(drawn):
    parts, held = drawn
    runs = [
        (count, index)
        for count in range(1, parts + 1)
        if parts % count == 0
        for index in range(count)
        if held <= set(range(index * parts // count, (index + 1) * parts // count))
    ]
    count, index = max(runs)
    assert aligned_run(sorted(held), parts) == (index, count)


@pytest.mark.slow
def test_tasks_of_slurm_find_each_other(corpus, tmp_path):
    sizes = ["VOCAB_SIZE=112", "EMB_DIM=16", "TRAIN_STEPS=2", "BATCH_SIZE=8", "EVAL_BATCHES=1", "Llama.num_layers=1"]
    sizes += ["Llama.num_heads=2", "Llama.head_dim=8", "Llama.mlp_dim=32", 'TASK_FEATURE_LENGTHS={"targets": 32}']
    sizes += ["TokenIds.sentinels=20", "TrainedSentencePiece.sentinels=20", f"TEXT={corpus}", "WARMUP_STEPS=0"]
    given = [f"--gin.{size}" for size in (*sizes, f"MODEL_DIR={tmp_path / 'run'}")]
    command = [sys.executable, str(LAUNCH / "train.py"), "--gin_file=mile.gin", "--gin_file=data/text.gin", *given]
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "localhost", "NTASKS": "2", "STEP_TASKS_PER_NODE": "2"}
    tasks, port = [], str(free_port())
    for task in ("0", "1"):
        named = {f"SLURM_{name}": value for name, value in (slurm | {"PROCID": task, "LOCALID": task}).items()}
        environment = {**os.environ, **named, "XLA_FLAGS": "", "JAX_COORDINATOR_PORT": port}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        tasks.append(subprocess.Popen(command, text=True, env=environment, **pipes))
    (said, errors), (silence, more) = [task.communicate(timeout=240) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], errors + more
    assert "2 x cpu of 2 processes, mesh data 2 x" in said and (tmp_path / "run" / "curves.png").exists()
    assert [line for line in silence.splitlines() if "[Gloo]" not in line] == []
