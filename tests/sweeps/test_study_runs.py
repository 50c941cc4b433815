"""A study that is trained: killed at any moment it ends as undisturbed; a fork ends as the run that was never one."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from support.runs import DEVICES

import mixlm
from mixlm.errors import UserError
from mixlm.reports.metrics import read
from mixlm.sweeps.commands import process_command
from mixlm.sweeps.folder import StudyFolder
from mixlm.sweeps.slurm import Resources, submit
from mixlm.training import loop

pytestmark = pytest.mark.slow

SIZES = {
    "VOCAB_SIZE": 112, "EMB_DIM": 16, "BATCH_SIZE": 8, "EVAL_BATCHES": 1, "VALIDATION": (), "LOG_PERIOD": 1,
    "TokenIds.sentinels": 20, "TrainedSentencePiece.sentinels": 20,
}  # fmt: skip
LLAMA = {"Llama.num_layers": 1, "Llama.mlp_dim": 32, "TASK_FEATURE_LENGTHS": {"targets": 32}, "EVAL_PERIOD": 3}
T5 = {
    "EncoderDecoder.num_encoder_layers": 1, "EncoderDecoder.num_decoder_layers": 1, "EncoderDecoder.mlp_dim": 32,
    "DecoderOnly.num_layers": 1, "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 8}, "EVAL_PERIOD": 6,
}  # fmt: skip
# What depends on the clock, or names the folder.
UNEQUAL = ("seconds", "tokens_per_second")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])


def flags(corpus, folder, **changes):
    values = SIZES | LLAMA | {"TRAIN_STEPS": 6, "CHECKPOINT_PERIOD": 2, "KEEP_CHECKPOINTS": 9} | changes
    found = [
        f"--gin.{name}={value!r}" if not isinstance(value, str) else f"--gin.{name}={value}"
        for name, value in values.items()
    ]
    return ["--gin_file=mile.gin", f"--text={corpus}", "--sweep.GAMMA=0.0,1.0", f"--gin.STUDY_FOLDER={folder}", *found]


def rows(folder):
    with open(folder / "cells.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name not in UNEQUAL} for row in csv.DictReader(file)]


def lines(folder):
    """metrics.jsonl of each cell, without the speed."""
    return {
        path.parent.name: [
            {name: value for name, value in line.items() if name not in UNEQUAL} for line in read(path.parent)
        ]
        for path in sorted(folder.glob("*/metrics.jsonl"))
    }


def states(folder):
    """The parameters of each cell's last checkpoint."""
    return {path.parent.name: mixlm.Run(path.parent).params for path in sorted(folder.glob("*/recipe.json"))}


def run(arguments):
    return subprocess.run(process_command(arguments), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "whole"
    done = run(flags(corpus, folder))
    assert done.returncode == 0, done.stderr
    return folder


def moments(folder):
    """Whether it is time to kill: within the first cell's training, after its report, within the second cell's."""
    first, second = folder / "GAMMA=0.0,seed=0", folder / "GAMMA=1.0,seed=0"
    return {
        "first": lambda: (first / "metrics.jsonl").exists() and len(read(first)) >= 3,
        "between": lambda: (first / "curves.png").exists(),
        "second": lambda: (second / "metrics.jsonl").exists() and len(read(second)) >= 3,
    }


@pytest.mark.parametrize("moment", ["first", "between", "second"])
def test_a_sweep_that_was_killed_ends_as_an_undisturbed_one(moment, corpus, tmp_path, undisturbed):
    folder = tmp_path / "killed"
    due = moments(folder)[moment]
    with subprocess.Popen(
        process_command(flags(corpus, folder)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while not due() and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    done = run(flags(corpus, folder))
    assert done.returncode == 0, done.stderr
    assert lines(folder) == lines(undisturbed)
    assert jax.tree.all(jax.tree.map(np.array_equal, states(folder), states(undisturbed)))
    assert rows(folder) == rows(undisturbed)
    again = run(flags(corpus, folder))
    assert again.returncode == 0 and "1/2" not in again.stdout  # nothing is left to train


def test_two_processes_train_no_cell_twice(corpus, tmp_path, undisturbed):
    done = run([*flags(corpus, tmp_path / "jobs"), "--jobs=2"])
    assert done.returncode == 0, done.stderr
    assert sorted(
        line.split()[0] for line in done.stdout.splitlines() if "/2  GAMMA" in line and "trained by" not in line
    ) == ["1/2", "2/2"]
    assert {name: [line["step"] for line in found] for name, found in lines(tmp_path / "jobs").items()} == {
        name: [line["step"] for line in found] for name, found in lines(undisturbed).items()
    }


def test_a_cell_that_fails_is_marked_and_the_others_go_on(corpus, tmp_path, monkeypatch):
    settle = loop.Loop.settle

    def fail(self, done, metrics, params=None):
        if "GAMMA=0.0" in str(self.folder.path) and done == 2:
            raise UserError("The loss of step 2 is not finite.")
        settle(self, done, metrics, params)

    study = mixlm.load_study(
        "mile.gin",
        axes={"GAMMA": (0.0, 1.0)},
        text=corpus,
        TRAIN_STEPS=4,
        STUDY_FOLDER=str(tmp_path / "a"),
        **SIZES,
        **LLAMA,
    )
    with monkeypatch.context() as broken:
        broken.setattr(loop.Loop, "settle", fail)
        runs = mixlm.sweep(study, lambda _: None)
    assert list(runs.states.values()) == ["failed", "done"]
    assert runs.table.select("error")[0] == {"error": "The loss of step 2 is not finite."}
    assert list(mixlm.sweep(study, lambda _: None).states.values()) == ["failed", "done"]
    assert list(mixlm.sweep(study, lambda _: None, retry=True).states.values()) == ["done", "done"]


def test_a_second_cell_compiles_nothing(corpus, tmp_path):
    """Shares, weights, rates and seeds are arguments of programs that the first cell has left in memory."""
    compiled, began = [], []
    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(
        hear := lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    study = mixlm.load_study(
        "mile.gin", axes={"GAMMA": (0.0, 1.0), "LEARNING_RATE": (0.01, 0.002)}, seeds=2, text=corpus, TRAIN_STEPS=4,
        STUDY_FOLDER=str(tmp_path / "a"), **SIZES, **LLAMA,
    )  # fmt: skip
    try:
        mixlm.sweep(study, lambda line: began.append(len(compiled)) if "/8  " in line else None)
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)
    assert len(began) == 8 and began[1] > 3
    assert began[1:] == [began[1]] * 7 and len(compiled) == began[1]


def forked(corpus, folder, **grid):
    return mixlm.load_study(
        "spactor.gin",
        axes={"TAU": (0, 4, 8)},
        text=corpus,
        TRAIN_STEPS=12,
        STUDY_FOLDER=str(folder),
        **SIZES,
        **T5,
        **grid,
    )


def test_a_fork_ends_as_the_run_that_was_never_one(corpus, tmp_path):
    alone = mixlm.sweep(forked(corpus, tmp_path / "alone"), lambda _: None)
    forks = mixlm.sweep(forked(corpus, tmp_path / "forks", **{"Grid.forks": "TAU"}), lambda _: None)
    assert set(forks.states.values()) == {"done"}
    for name in forks.states:
        assert jax.tree.all(jax.tree.map(np.array_equal, forks[name].params, alone[name].params)), name
        ends = [
            {key: value for key, value in each[name].metrics[-1].items() if key not in UNEQUAL}
            for each in (forks, alone)
        ]
        assert ends[0] == ends[1]  # the tokens and FLOPs of the stem among them
    assert forks["TAU=4,seed=0"].metrics[0]["step"] > 4 and alone["TAU=4,seed=0"].metrics[0]["step"] == 1


def test_a_study_is_an_array_of_tasks(corpus, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    study = mixlm.load_study(
        "mile.gin",
        axes={"GAMMA": (0.0, 1.0)},
        text=corpus,
        TRAIN_STEPS=4,
        STUDY_FOLDER=str(tmp_path / "a"),
        **SIZES,
        **LLAMA,
    )
    jobs = submit(study, flags(corpus, tmp_path / "a", TRAIN_STEPS=4), "local", Resources(minutes=5), lambda _: None)
    for job in jobs:
        job.result()
    assert set(mixlm.StudyRuns(tmp_path / "a").states.values()) == {"done"}
    assert submit(study, [], "local", Resources(), lambda _: None) == []


def test_cells_of_other_versions_are_marked(undisturbed):
    folder = StudyFolder(undisturbed)
    before = folder.record("GAMMA=0.0,seed=0")
    folder.note("GAMMA=0.0,seed=0", version="0.0.1")
    try:
        assert "cells of different versions of mixlm (0.0.1, " in repr(mixlm.StudyRuns(undisturbed))
        assert {row["version"] for row in mixlm.StudyRuns(undisturbed).table} == {"0.0.1", before["version"]}
    finally:
        folder.note("GAMMA=0.0,seed=0", version=before["version"])


def test_every_row_is_a_line_of_its_run(undisturbed):
    table = mixlm.StudyRuns(undisturbed).table
    for row in table:
        line = next(each for each in read(undisturbed / row["cell"]) if each["step"] == row["step"])
        assert row["validation/causal"] == line["validation/causal"] and row["flops"] == line["flops"]
    assert [row["last"] for row in table] == [False, True] * 2
    assert json.loads(Path(undisturbed, "study.json").read_text())["axes"] == {"GAMMA": [0.0, 1.0]}
    assert sys.executable
