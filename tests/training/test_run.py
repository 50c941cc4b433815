"""A run from its first step to its last: what it writes, how it resumes, what stops it."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from support.runs import DEVICES, Killed, assert_same, final_state, lines, recipe

from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.errors import Stopped, UserError
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.optimizer import Optimizer
from mixlm.reports.examples import Examples
from mixlm.reports.journal import FINISHED, read_examples, read_journal
from mixlm.reports.metrics import read
from mixlm.schedules import Piecewise
from mixlm.training import run as loop


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Runs on one device, which compiles sooner; the test of the devices takes them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: DEVICES[:1])
        yield


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """A run that nothing interrupts, and what it printed."""
    made, said = recipe(corpus, tmp_path_factory.mktemp("runs") / "whole"), []
    loop.train(made.with_config("TAU = 4\n"), said.append)
    return made, said


def test_a_run_leaves_its_record(whole):
    made, said = whole
    record = lines(made)
    assert [line["step"] for line in record] == list(range(1, 9))
    assert [line["stage"] for line in record] == ["spactor"] * 4 + ["span_corruption"] * 4
    assert {"train/generator", "train/rtd", "train/span_corruption", "learning_rate", "loss"} <= record[0].keys()
    assert "train/rtd" not in record[4]
    assert [line["step"] for line in record if "validation/span_corruption" in line] == [4, 8]
    flops = np.diff([line["flops"] for line in record])
    assert len(set(flops[:3])) == 1 and len(set(flops[4:])) == 1 and flops[0] > flops[4] > 0
    assert (made.folder / "config.gin").read_text() == "TAU = 4\n"
    for name in ("curves.png", "samples.txt", "recipe.json"):
        assert (made.folder / name).stat().st_size > 0
    assert list((made.folder / "tensorboard").iterdir())
    (start,) = [line for line in read_journal(made.folder) if line["event"] == "start"]
    assert start["step"] == 0 and start["device"].startswith("1 x ") and dict(start["summary"])["recipe"]
    assert read_journal(made.folder)[-1]["how"] == FINISHED
    # Of 34 tokens 5 are noise in 2 spans: 32 are read and 8 said; of the other 29, 4 are masked.
    for term, tokens in {"generator": 4, "rtd": 32, "span_corruption": 8}.items():
        assert [line[f"train/{term}/tokens"] for line in record[:4]] == [8 * tokens] * 4
        assert [line[f"spent/spactor/{term}/tokens"] for line in record] == [
            8 * tokens * min(n, 4) for n in range(1, 9)
        ]
    assert [line["spent/span_corruption/span_corruption/mass"] for line in record[4:]] == [64, 128, 192, 256]
    parts = {name: value for name, value in record[-1].items() if name.startswith("spent/spactor/flops/")}
    assert record[-1]["spent/spactor/flops"] == sum(parts.values()) == record[3]["flops"]
    assert {name.rsplit("/", 1)[-1] for name in parts} == {"generator_head", "model_head", "rtd_head"}
    assert record[-1]["flops"] == sum(record[-1][f"spent/{stage}/flops"] for stage in ("spactor", "span_corruption"))
    assert "mfu" not in record[-1]  # nobody knows a CPU's peak
    # That a network says its fills is seen in test_seq2seq: a bag has no cache to decode with.
    text = "\n".join(said)
    for part in (
        "stage spactor",
        "steps 1 to 4",
        "stage span_corruption",
        "seen",
        "targets",
        "unigram entropy",
        "at step 4, the end of spactor",
        "entropy of the labels",
    ):
        assert part in text


def test_the_same_rows_are_shown_at_every_validation(whole):
    (first, before), (last, after) = read_examples(whole[0].folder)
    assert (first, last) == (4, 8) and len(before) == len(after) > 0
    for one, other in zip(before, after):
        assert (one.objective, one.number, one.says) == (other.objective, other.number, other.says)
    assert "\n".join(Examples(after).lines) in (whole[0].folder / "samples.txt").read_text()


def test_the_total_is_the_weighted_sum_of_the_terms(whole):
    for line in lines(whole[0])[:4]:
        total = line["train/generator"] + 10 * line["train/rtd"] + 10 * line["train/span_corruption"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    "killed_at",
    [
        pytest.param(2, marks=pytest.mark.slow, id="before any checkpoint"),
        pytest.param(5, id="past tau"),
        pytest.param(7, marks=pytest.mark.slow, id="at the end"),
    ],
)
def test_a_killed_run_resumes_to_the_bit(whole, corpus, tmp_path, monkeypatch, killed_at):
    made = recipe(corpus, tmp_path / "killed")
    settle = loop.Loop.settle

    def until(self, done, metrics, params=None):
        settle(self, done, metrics, params)
        if done == killed_at:
            raise Killed

    monkeypatch.setattr(loop.Loop, "settle", until)
    with pytest.raises(Killed):
        loop.train(made, say=lambda _: None)
    monkeypatch.setattr(loop.Loop, "settle", settle)
    loop.train(made, say=lambda _: None)
    assert lines(made) == lines(whole[0])
    assert read_examples(made.folder) == read_examples(whole[0].folder)
    assert [line.get("how", line["event"]) for line in read_journal(made.folder)] == [
        "start",
        "Killed: ",
        "start",
        FINISHED,
    ]
    step, state = final_state(made)
    assert step == 8
    assert_same(state, final_state(whole[0])[1])


def test_a_signal_saves_and_the_next_start_goes_on(whole, corpus, tmp_path, monkeypatch):
    made, said = recipe(corpus, tmp_path / "stopped", checkpoint_period=100), []
    settle = loop.Loop.settle

    def signalled(self, done, metrics, params=None):
        settle(self, done, metrics, params)
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Loop, "settle", signalled)
    with pytest.raises(
        Stopped, match=r"^SIGTERM came: saved after step \d; the same command goes on from there\.$"
    ) as caught:
        loop.train(made, say=said.append)
    monkeypatch.setattr(loop.Loop, "settle", settle)
    assert any("SIGTERM" in line for line in said)
    assert read_journal(made.folder)[-1]["how"] == str(caught.value)
    assert 2 <= final_state(made)[0] < 8
    loop.train(made, say=said.append)
    assert lines(made) == lines(whole[0])
    assert_same(final_state(made)[1], final_state(whole[0])[1])


def test_a_finished_run_can_be_made_longer(whole, corpus, tmp_path):
    loop.train(recipe(corpus, tmp_path / "longer", train_steps=6), say=lambda _: None)
    made = recipe(corpus, tmp_path / "longer")
    loop.train(made, say=lambda _: None)
    # The shorter run was validated and measured at its own last step as well.
    ends = ("validation/", "yardstick/")
    longer, wanted = (
        [{key: line[key] for key in line if not key.startswith(ends)} for line in lines(each)]
        for each in (made, whole[0])
    )
    assert longer == wanted
    assert_same(final_state(made)[1], final_state(whole[0])[1])


def test_a_run_that_was_killed_before_its_report_gets_one(whole, corpus, tmp_path):
    made, said = recipe(corpus, tmp_path / "silent"), []
    shutil.copytree(whole[0].folder, made.folder)
    for name in ("curves.png", "samples.txt"):
        (made.folder / name).unlink()
    loop.train(made, say=said.append)
    assert any("unigram entropy" in line for line in said)
    assert (made.folder / "samples.txt").read_text() == (whole[0].folder / "samples.txt").read_text()
    assert (made.folder / "curves.png").exists() and lines(made) == lines(whole[0])


def test_a_finished_run_says_so_and_touches_nothing(whole):
    made, said = whole[0], []
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    loop.train(made, say=said.append)
    assert len(said) == 1 and "finished" in said[0]
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == before


def test_a_finished_run_without_its_checkpoints_is_not_trained_over(whole, corpus, tmp_path):
    made = recipe(corpus, tmp_path / "bare")
    shutil.copytree(whole[0].folder, made.folder, ignore=shutil.ignore_patterns("checkpoints"))
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"was trained to step 8 and has no whole checkpoint.* move its metrics"):
        loop.train(made, say=lambda _: None)
    assert {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()} == before


def cut(path):
    path.write_bytes(path.read_bytes()[:700])


def deleted(path):
    path.unlink()


def garbled(path):
    first, second, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:9] + b"\xff\n" + b"".join(rest))


DAMAGES = (cut, deleted, garbled)


def stopped_at_six(whole, corpus, folder, damage):
    """A copy of the whole run that has its checkpoints up to step 6, and whose history was damaged."""
    made = recipe(corpus, folder)
    shutil.copytree(whole[0].folder, made.folder)
    shutil.rmtree(made.folder / "checkpoints" / "8")
    (made.folder / "curves.png").unlink()
    damage(made.folder / "metrics.jsonl")
    return made


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_history_is_what_it_was_at_the_checkpoint(whole, corpus, tmp_path, damage):
    made = stopped_at_six(whole, corpus, tmp_path / "run", damage)
    checkpoints = Checkpoints(made.folder / "checkpoints")
    said = loop.resume_record(made, RunDir(made.folder), checkpoints, 6, checkpoints.note(6), 0)
    assert lines(made) == lines(whole[0])[:6]
    assert "restored" in said[-1] and (damage is deleted or (made.folder / "metrics.damaged").stat().st_size)
    # Checkpoints of before 0.6.0 hold no copy, and their notes no count.
    damage(made.folder / "metrics.jsonl")
    for copy in made.folder.glob("checkpoints/*/history.jsonl.gz"):
        sums = json.loads((copy.parent / "checksums.json").read_text())
        del sums[copy.name]
        (copy.parent / "checksums.json").write_text(json.dumps(sums))
        copy.unlink()
    left = lines(made)
    said = loop.resume_record(made, RunDir(made.folder), checkpoints, 6, {}, 0)
    assert lines(made) == left and "and no checkpoint holds them" in said[-1]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_with_a_damaged_history_ends_as_one_without(whole, corpus, tmp_path, damage):
    made, said = stopped_at_six(whole, corpus, tmp_path / "run", damage), []
    loop.train(made, say=said.append)
    assert lines(made) == lines(whole[0])
    assert any("restored" in line for line in said)
    assert_same(final_state(made)[1], final_state(whole[0])[1])


def test_other_text_does_not_go_on_with_this_texts_run(corpus, tmp_path):
    copy = tmp_path / "texts"
    shutil.copytree(corpus, copy)
    made = recipe(copy, tmp_path / "run", train_steps=4)
    loop.train(made, say=lambda _: None)
    (copy / "00.txt").write_text((copy / "00.txt").read_text() + "The baker finds a boat.\n" * 40)
    with pytest.raises(UserError, match="holds another run, with data"):
        loop.train(recipe(copy, tmp_path / "run", train_steps=8), say=lambda _: None)


@pytest.mark.slow
def test_one_row_a_batch_is_enough(corpus, tmp_path):
    made, said = recipe(corpus, tmp_path / "narrow", batch_size=1, train_steps=5), []
    loop.train(made, say=said.append)
    assert "example 1" in said and "example 2" not in said


def test_a_folder_is_written_by_one_process(whole, corpus, tmp_path):
    made = recipe(corpus, tmp_path / "shared")
    held = RunDir(made.folder)
    held.acquire(made.identity(), "")
    with pytest.raises(UserError, match="another process"):
        loop.train(made, say=lambda _: None)
    held.release()


def test_another_recipe_does_not_get_the_folder(whole, corpus):
    made = recipe(corpus, whole[0].folder, seed=1)
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="seed 0 instead of 1"):
        loop.train(made, say=lambda _: None)
    assert {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()} == before


def test_a_loss_that_is_not_finite_names_the_step_and_leaves_the_last_good_checkpoint(corpus, tmp_path):
    bolts = Optimizer(Adafactor(), Piecewise((0, 4), (0.02, 1e38)), clip_norm=None)
    made = recipe(corpus, tmp_path / "bolts", optimizer=bolts)
    with pytest.raises(UserError, match=r"step [56] is not finite.*last good checkpoint is that of step 3"):
        loop.train(made, say=lambda _: None)
    step, state = final_state(made)
    assert step == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert [line["step"] for line in read(made.folder)][-1] in (4, 5)


@pytest.mark.slow  # test_meshes has other recipes on more meshes
def test_devices_change_nothing_but_rounding(whole, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES)
    eight = recipe(corpus, tmp_path / "eight")
    loop.train(eight, say=lambda _: None)
    for left, right in zip(lines(eight), lines(whole[0]), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=2e-4)


def test_explaining_shows_every_objective_and_writes_nothing(corpus, tmp_path):
    text = str(loop.explain(recipe(corpus, tmp_path / "explained"), lambda _: None))
    for part in ("parameters", "FLOP a step", "memory of spactor", "checkpoint", "examples of span_corruption"):
        assert part in text
    assert "<extra_id_0>" in text and "<mask>" in text
    assert not (tmp_path / "explained").exists()


def test_the_identity_is_plain_text(corpus, tmp_path):
    identity = recipe(corpus, tmp_path).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["seed"] == "0" and "model_dir" not in identity
