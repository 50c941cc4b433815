"""What breaks a run from outside, done for real: kills, signals, full and read-only disks, two starts, torn files."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from support.places import TESTS
from support.runs import assert_same, final_state, lines
from support.small_run import recipe

from mixlm.checkpoints.load import load_params
from mixlm.checkpoints.saving import Checkpoints
from mixlm.errors import UNFINISHED, Stopped, UserError
from mixlm.training import run as loop

DEVICES = jax.devices()
SCRIPT = TESTS / "support" / "small_run.py"
TAU = 5
SOON = 45  # seconds in which a child must be gone; what would hold it up takes twice as long
# The bits of a result depend on how XLA cuts up its work, so a child sees the devices that this process sees.
ONE_DEVICE = "import jax, os, signal, time\none = jax.devices()[:1]\njax.devices = lambda *_: one\n"
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: DEVICES[:1])
        yield


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """A run that nothing interrupts."""
    made = small(corpus, tmp_path_factory.mktemp("faults") / "whole")
    loop.train(made, say=lambda _: None)
    return made


def small(corpus, folder, **changes):
    return recipe(str(corpus), str(folder), tau=TAU, bag=True, **changes)


def child(corpus, folder, driver: str = "", cache=None, **changes) -> subprocess.Popen:
    """The same run in a process of its own."""
    asked = {
        "corpus": str(corpus),
        "folder": str(folder),
        "tau": TAU,
        "bag": True,
        "driver": ONE_DEVICE + driver,
        **changes,
    }
    environment = os.environ | ({"MIXLM_CACHE": str(cache)} if cache else {})
    command = [sys.executable, str(SCRIPT), json.dumps(asked)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen, after: str | None = None, number: int | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; the line that holds `after` is answered with signal `number`."""
    said = ""
    with process:
        try:
            while after is not None and after not in said:
                line = process.stdout.readline()
                assert line, process.stderr.read()
                said += line
            if number is not None:
                process.send_signal(number)
            rest, errors = process.communicate(timeout=SOON if after else 240)
        finally:
            process.kill()
    return process.returncode, said + rest, errors


def assert_nothing_lost(made, wanted) -> None:
    """The run goes on from where it is, and ends as the one that nothing interrupted, to the bit."""
    loop.train(made, say=lambda _: None)
    assert lines(made) == lines(wanted)
    (step, state), (_, wanted_state) = final_state(made), final_state(wanted)
    assert step == 12
    assert_same(state, wanted_state)


def at_step(step: int, action: str) -> str:
    return f"""
settle = loop.Loop.settle
def until(self, done, metrics, params=None):
    settle(self, done, metrics, params)
    if done == {step}:
        {action}
loop.Loop.settle = until
"""


KILLED_IN_SAVING = {
    "before the checksums": f"loop.Checkpoints._write_checksums = lambda self: {KILL}",
    "before the commit": f"""
write = loop.Checkpoints._write_checksums
loop.Checkpoints._write_checksums = lambda self: (write(self), {KILL})
""",
    "after the commit": f"""
from orbax.checkpoint._src.checkpointers import async_checkpointer as saver
commit = saver._on_commit_callback
saver._on_commit_callback = lambda *given: (commit(*given), {KILL})
""",
}


@pytest.mark.slow
def test_kills_in_the_middle_of_a_save_past_tau_and_past_an_epoch_lose_nothing(whole, corpus, tmp_path):
    made = small(corpus, tmp_path / "run")
    found = {}
    for moment, driver in KILLED_IN_SAVING.items():
        assert ended(child(corpus, made.folder, driver))[0] == -9
        written = [path.name for path in made.folder.glob("checkpoints/3*/checksums.json")]
        found[moment] = (written, Checkpoints(made.folder / "checkpoints").latest())
    assert found == {
        "before the checksums": ([], None),
        "before the commit": (["checksums.json"], None),
        "after the commit": (["checksums.json"], 3),
    }
    # Step 6 is the first of the second stage, and the second epoch begins within step 9.
    assert ended(child(corpus, made.folder, at_step(TAU + 1, KILL)))[0] == -9
    code, said, _ = ended(child(corpus, made.folder, at_step(9, f"self.checkpoints.wait(); {KILL}")))
    assert code == -9 and "resuming after step 3" in said
    assert Checkpoints(made.folder / "checkpoints").latest() == 6
    assert_nothing_lost(made, whole)


@pytest.mark.slow
def test_checkpoints_kept_by_words_survive_kills_resumes_and_rotation(whole, corpus, tmp_path):
    words = whole.dataset.prepare(lambda _: None).words
    # 256 tokens a step and 2082 in the set: the steps 2, 4 and 9.
    counts = {f"chck_{count}": count for count in (words * 400 // 2082, words * 1000 // 2082, words + 3)}
    changes = {"keep": 1, "keep_at_words": tuple(counts.values())}
    made, said = small(corpus, tmp_path / "run", **changes), []
    assert ended(child(corpus, made.folder, at_step(3, f"self.checkpoints.wait(); {KILL}"), **changes))[0] == -9
    in_fourth = f"""
write = loop.Checkpoints._write_checksums
loop.Checkpoints._write_checksums = lambda self: (write(self), self._saving == 4 and {KILL})
"""
    assert ended(child(corpus, made.folder, in_fourth, **changes))[0] == -9
    assert Checkpoints(made.folder / "checkpoints").named() == {next(iter(counts)): 2}
    loop.train(made, say=said.append)
    assert_nothing_lost(made, whole)
    steps = dict(zip(counts, (2, 4, 9)))
    kept = Checkpoints(made.folder / "checkpoints")
    assert kept.named() == steps and kept.listed() == "2, 4, 9 and 12"
    (named,) = [line for line in said if line.startswith("named ")]
    assert all(f"{name} at step {step} (" in named for name, step in steps.items())
    for name, step in steps.items():
        assert load_params(replace(made, model_dir=f"{made.folder}@{name}"))[0] == step
    # Named ones stay where a later start does not ask for them, and what it asks for too late is told.
    later = replace(made, keep_at_words=(words,), train_steps=15)
    said.clear()
    loop.train(later, say=said.append)
    assert kept.named() == steps
    assert f"Not kept, as this start goes on after step 12: chck_{words} (step 9)." in said


def test_a_signal_while_data_are_prepared_leaves_nothing_half_made(whole, corpus, tmp_path, monkeypatch):
    run = child(corpus, tmp_path / "run", cache=tmp_path / "cache")
    code, _, errors = ended(run, "Tokenising text (once)", signal.SIGTERM)
    assert code == UNFINISHED
    assert errors.splitlines()[-1] == ("SIGTERM came: there is no checkpoint yet; the same command goes on from there.")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("MIXLM_CACHE", str(tmp_path / "cache"))
    stores = tmp_path / "cache" / "stores"
    assert not stores.exists() or not [path for path in stores.iterdir() if path.name[0] != "."]
    anew = small(corpus, tmp_path / "run").dataset.prepare(lambda _: None)
    monkeypatch.undo()
    assert anew.summary == whole.dataset.prepare(lambda _: None).summary


def test_a_signal_while_the_first_step_compiles_does_not_wait_for_it(corpus, tmp_path):
    slow = f"from jax.stages import Lowered\nLowered.compile = lambda self, *_, **__: time.sleep({2 * SOON})"
    code, _, errors = ended(child(corpus, tmp_path / "run", slow), "compiling the first step", signal.SIGINT)
    assert code == UNFINISHED
    assert errors.splitlines()[-1].startswith("SIGINT came: there is no checkpoint yet")
    assert "Traceback" not in errors


def test_a_signal_while_a_checkpoint_is_saved_loses_neither(whole, corpus, tmp_path, monkeypatch):
    made, said = small(corpus, tmp_path / "run"), []
    write = Checkpoints._write_checksums

    def signalled(self):
        if self._saving == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        write(self)

    monkeypatch.setattr(Checkpoints, "_write_checksums", signalled)
    with pytest.raises(Stopped, match="SIGTERM came: saved after step ") as caught:
        loop.train(made, say=said.append)
    assert "SIGTERM came: saving" in said[-1]
    step = int(caught.value.outcome.split()[-1])
    steps = [int(path.name) for path in (made.folder / "checkpoints").iterdir() if path.name.isdigit()]
    assert 3 <= step < 12 and {3, step} <= {*steps}
    assert_nothing_lost(made, whole)


def test_a_second_signal_leaves_at_once(whole, corpus, tmp_path):
    slow = at_step(2, "os.kill(os.getpid(), signal.SIGINT)") + (
        f"loop.Checkpoints._write_checksums = lambda self: time.sleep({2 * SOON})"
    )
    made = small(corpus, tmp_path / "run")
    code, said, _ = ended(child(corpus, made.folder, slow), "another signal leaves at once", signal.SIGINT)
    assert code == -signal.SIGINT and "saved after" not in said
    assert_nothing_lost(made, whole)


def test_a_signal_in_the_report_leaves_the_run_and_the_report_comes_next_time(whole, corpus, tmp_path, monkeypatch):
    made = small(corpus, tmp_path / "run")
    shutil.copytree(whole.folder, made.folder)
    made_by = signal.getsignal(signal.SIGTERM)
    (made.folder / "curves.png").unlink()
    with monkeypatch.context() as patch, pytest.raises(Stopped, match=r"that of step 12 in .*checkpoints; the same"):
        patch.setattr(loop, "finish", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        loop.train(made, say=lambda _: None)
    assert signal.getsignal(signal.SIGTERM) is made_by
    assert_nothing_lost(made, whole)
    assert (made.folder / "curves.png").exists()


def test_a_torn_newest_checkpoint_is_taken_up_from_the_one_before(whole, corpus, tmp_path, capsys):
    made = small(corpus, tmp_path / "run")
    shutil.copytree(whole.folder, made.folder)
    (made.folder / "curves.png").unlink()
    largest = max(
        (made.folder / "checkpoints" / "12").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()
    )
    os.truncate(largest, largest.stat().st_size // 2)
    assert_nothing_lost(made, whole)
    assert "the checkpoint of step 12" in (printed := capsys.readouterr().out)
    assert "going on from the whole one of step 9" in printed


def test_a_loss_that_is_no_number_ends_the_run_and_the_next_start_goes_on(whole, corpus, tmp_path):
    made = small(corpus, tmp_path / "run")
    injected = """
settle = loop.Loop.settle
def until(self, done, metrics, params=None):
    settle(self, done, metrics | {"loss": float("nan")} if done == 8 else metrics, params)
loop.Loop.settle = until
"""
    code, _, errors = ended(child(corpus, made.folder, injected))
    assert code == 2
    (sentence,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert "The loss of step 8 is not finite (loss nan" in sentence and "that of step 6 in" in sentence
    assert [line["step"] for line in lines(made)] == [*range(1, 8)]
    assert_nothing_lost(made, whole)


def test_a_second_start_on_a_folder_in_use_is_refused(whole, corpus, tmp_path):
    made = small(corpus, tmp_path / "run")
    running = child(corpus, made.folder, at_step(2, f"print('here', flush=True); time.sleep({2 * SOON})"))
    try:
        while "here" not in running.stdout.readline():
            assert running.poll() is None
        with pytest.raises(UserError, match="is being written to by another process"):
            loop.train(made, say=lambda _: None)
    finally:
        running.kill()
        running.communicate()
    assert_nothing_lost(made, whole)


@pytest.fixture
def disk(tmp_path):
    """A file system of four megabytes in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"file systems cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize(
    ("spare", "words"),
    [
        (None, r"run could not be written \(No space left on device\); the last good .* step 3 in"),
        (-4096, r"The checkpoint of step 6 needs .* GB and .* has .* GB left; nothing was written"),
        (8192, r"The checkpoint of step 6 could not be written to .*: No space left on device"),
    ],
    ids=["for a line", "for a checkpoint", "in the middle of a checkpoint"],
)
def test_a_full_disk_keeps_what_there_is_and_the_run_goes_on_when_there_is_room(whole, corpus, disk, spare, words):
    # In a process of its own: Orbax leaves coroutines behind that complain when they are collected.
    code, _, errors = ended(child(corpus, disk / "run", filled(disk, 4 if spare is None else 6, spare)))
    assert code == 2
    (sentence,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert re.search(words, sentence)
    made = small(corpus, disk / "run")
    assert Checkpoints(made.folder / "checkpoints").latest() == 3
    (disk / "ballast").unlink()
    assert_nothing_lost(made, whole)


def filled(disk: Path, step: int, spare: int | None) -> str:
    """A driver that fills the disk after a step: all of it, or but for a checkpoint and `spare` bytes.

    A line takes a block of the disk at a time, so the checkpoint's is the first that fails; where all is full, the
    lines after it are longer than a block.
    """
    return f"""
import os, pathlib
from mixlm.checkpoints.saving import size_in_bytes
settle = loop.Loop.settle
def until(self, done, metrics, params=None):
    if done > {step}:
        self.checkpoints.wait()  # lest the next line is the first to meet the full disk
    settle(self, done, metrics, params)
    if done == {step}:
        self.checkpoints.wait()
        blocks = os.statvfs({str(disk)!r})
        left = {"0" if spare is None else f"size_in_bytes(self.prepared.shapes) + {spare}"}
        pathlib.Path({str(disk)!r}, "ballast").write_bytes(bytes(blocks.f_bavail * blocks.f_frsize - left))
        {"self.ledger.line = lambda *_: dict.fromkeys(map(str, range(1000)), 0.0)" if spare is None else ""}
loop.Loop.settle = until
"""


def test_a_read_only_disk_is_named_and_nothing_changes(whole, corpus, disk):
    made = small(corpus, disk / "run")
    shutil.copytree(whole.folder, made.folder)
    (made.folder / "curves.png").unlink()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    before = {path: path.stat().st_mtime_ns for path in disk.rglob("*")}
    for each in (made, small(corpus, disk / "another")):
        with pytest.raises(UserError, match=r"cannot be written to: Read-only file system\.$"):
            loop.train(each, say=lambda _: None)
    assert {path: path.stat().st_mtime_ns for path in disk.rglob("*")} == before
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert_nothing_lost(made, whole)
