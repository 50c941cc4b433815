"""A signal stops a study: the cell that was running is neither done nor failed, whoever started its process."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mixlm.errors import UNFINISHED, Stopped, UserError
from mixlm.gin_config.flags import Flags
from mixlm.sweeps import jobs, run, slurm
from mixlm.sweeps.states import state_in
from mixlm.sweeps.sweep import Texts, read_sweep

# Saves for a while after the first SIGTERM; a second one would end it at once.
SAVES = """
import pathlib, signal, sys, time
def come(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(0.3)
    sys.exit(75)
signal.signal(signal.SIGTERM, come)
pathlib.Path("up").touch()
time.sleep(60)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two cells that nobody trains."""
    monkeypatch.chdir(tmp_path)
    return read_sweep(Flags(gin_files=("mile.gin",)), {"GAMMA": Texts(["0.0", "1.0"])})


def states(study):
    return [state_in(study.folder, cell.name) for cell in study.cells]


def test_the_cell_of_a_signal_is_not_done_and_the_next_is_not_begun(study, monkeypatch):
    def stopped(recipe, say):
        raise Stopped("SIGTERM", "saved after step 3", everywhere=True)

    monkeypatch.setattr(run, "train", stopped)
    first, second = (cell.name for cell in study.cells)
    with pytest.raises(Stopped, match=f"^SIGTERM came: {first}, saved after step 3; the same command"):
        run.run_cells(study, lambda _: None)
    assert states(study) == ["missing", "missing"]
    assert "error" not in study.folder.record(first) and study.folder.record(second) == {}


@pytest.mark.parametrize(
    ("ending", "error", "state"),
    [
        # In a group of its own, which a terminal's Ctrl-C does not reach.
        (f"sys.exit({UNFINISHED} if os.getpgrp() == os.getpid() else 1)", Stopped, "missing"),
        ("os.kill(os.getpid(), signal.SIGTERM)", Stopped, "missing"),
        ("os.kill(os.getpid(), signal.SIGKILL)", UserError, "failed"),
        ("sys.exit(2)", UserError, "missing"),
    ],
)
def test_a_process_that_was_stopped_leaves_its_cell_to_the_next_start(study, monkeypatch, ending, error, state):
    begin, first = jobs._start, study.cells[0].name

    def started(*given):
        process = begin(*given)
        study.folder.note(first, process=process.pid, open=True)
        return process

    command = [sys.executable, "-c", f"import os, signal, sys, time; time.sleep(0.2); {ending}"]
    monkeypatch.setattr(jobs, "process_command", lambda *_: command)
    monkeypatch.setattr(jobs, "_start", started)
    with pytest.raises(error):
        jobs.run_jobs(study, [], 1, lambda _: None)
    assert states(study) == [state, "missing"]


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task of an array; while it is called, `when_up` does something as soon as its process is there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "process_command", lambda *_: [sys.executable, "-c", SAVES])
    return slurm.CellTask(())


def when_up(folder, action):
    def wait():
        while not (folder / "up").exists():
            time.sleep(0.01)
        action()

    threading.Thread(target=wait, daemon=True).start()


def test_a_task_hands_on_a_signal_once(task, tmp_path):
    def ask():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    before = signal.getsignal(signal.SIGTERM)
    when_up(tmp_path, ask)
    with pytest.raises(Stopped, match="what was trained of a is saved"):
        task("a")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_task_that_submitit_stops_saves_and_comes_again(task, tmp_path):
    pytest.importorskip("submitit")
    again, before = [], signal.getsignal(signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, lambda *_: again.append(task.checkpoint("a")))
    try:
        when_up(tmp_path, lambda: os.kill(os.getpid(), signal.SIGUSR2))
        with pytest.raises(Stopped):
            task("a")
    finally:
        signal.signal(signal.SIGUSR2, before)
    (submission,) = again
    assert (submission.function, submission.args) == (slurm.CellTask(()), ("a",))


def test_a_task_whose_cell_fails_has_failed(task, monkeypatch):
    monkeypatch.setattr(slurm, "process_command", lambda *_: [sys.executable, "-c", "raise SystemExit(2)"])
    with pytest.raises(subprocess.CalledProcessError, match="exit status 2"):
        task("a")
