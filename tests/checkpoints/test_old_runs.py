"""Runs that version 0.4.3 trained up to checkpoint 3 of 6: scored, decoded, warm started from, and resumed.

`same_tokens` was trained on the text of the fixture `corpus`, which is tokenised today as it was then; `other_tokens`
on the same sentences with numbers, which tensorflow-text and sentencepiece segment differently. Text was held out by
the names of files then, which HOLD_OUT_BY=name does today.
"""

import json
import random
import runpy
import sys
import tarfile

import jax
import pytest
from support.places import GOLDEN, LAUNCH

from mixlm.reports.metrics import read

SIZES = (
    "--gin_file=dual.gin",
    "--gin.ROW_BOS=True",  # the rules of that version, by which these were trained
    "--gin.SCORE_BOS=True",
    "--gin.DECAY_FRACTION=0.25",
    "--gin.TRAIN_STEPS=6",
    "--gin.LOG_PERIOD=1",
    "--gin.EVAL_PERIOD=3",
    "--gin.EVAL_BATCHES=1",
    "--gin.CHECKPOINT_PERIOD=3",
    "--gin.KEEP_CHECKPOINTS=2",
    "--gin.BATCH_SIZE=8",
    '--gin.TASK_FEATURE_LENGTHS={"targets": 32}',
    "--gin.EMB_DIM=16",
    "--gin.Llama.num_heads=2",
    "--gin.Llama.head_dim=8",
    "--gin.Llama.mlp_dim=32",
    "--gin.Llama.num_layers=1",
    "--gin.TokenIds.sentinels=20",
    "--gin.TrainedSentencePiece.sentinels=20",
)
VOCAB_SIZES = {"same_tokens": 112, "other_tokens": 200}
# What version 0.4.3 went on with, on one device.
LOSSES = {4: 4.670808792114258, 5: 4.632296562194824, 6: 4.629515647888184}
NATS_PER_TOKEN, TOKENS = 4.658441466609324, 254
CONTINUED = "daar neEar neEar neEar ne"


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Runs on one device, as the old ones did."""
    devices = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices)
        yield


def unpacked(name, folder):
    with tarfile.open(GOLDEN / "runs" / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def run(tmp_path):
    return unpacked("same_tokens", tmp_path / "run")


@pytest.fixture
def other(tmp_path):
    return unpacked("other_tokens", tmp_path / "other")


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs a launch script in this process: (exit code, output, errors)."""

    def called(script, *arguments):
        monkeypatch.setattr(sys, "argv", [f"launch/{script}", *SIZES, *map(str, arguments)])
        try:
            runpy.run_path(str(LAUNCH / script), run_name="__main__")
            code = 0
        except SystemExit as error:
            code = error.code or 0
        return code, *capsys.readouterr()

    return called


def of(run, corpus, name="same_tokens"):
    return *on_today_s_split(run, corpus, name), "--gin.HOLD_OUT_BY=name"


def on_today_s_split(run, corpus, name="same_tokens"):
    return f"--text={corpus}", f"--gin.MODEL_DIR={run}", f"--gin.VOCAB_SIZE={VOCAB_SIZES[name]}"


def test_an_old_run_is_scored_as_then(command, run, corpus):
    code, _, errors = command("evaluate.py", *of(run, corpus), "--gin.SCORED_ROWS=8", "--gin.MODES=causal")
    assert code == 0, errors
    found = json.loads((run / "evaluation" / "latest" / "text.json").read_text())
    assert found["step"] == 3 and found["modes"]["causal"]["tokens"] == TOKENS
    assert found["modes"]["causal"]["nats_per_token"] == pytest.approx(NATS_PER_TOKEN, rel=1e-5)


def test_an_old_run_decodes_as_then(command, run, corpus):
    code, said, errors = command("decode.py", *of(run, corpus), "--prompt=The farmer sells", "--max_tokens=12")
    assert code == 0 and CONTINUED in said, (said, errors)


def test_an_old_run_resumes_with_the_losses_that_it_had_then(command, run, corpus):
    code, said, errors = command("train.py", *of(run, corpus))
    assert code == 0 and "resuming after step 3" in said, errors
    assert {line["step"]: line["loss"] for line in read(run)[3:]} == pytest.approx(LOSSES, rel=1e-5)


def test_an_old_run_is_not_resumed_under_the_rules_of_today(command, run, corpus):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, _, errors = command("train.py", *of(run, corpus), "--gin.ROW_BOS=False", "--gin.SCORE_BOS=False")
    assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    assert "holds another run, with " in errors and "Causal.row_bos" in errors
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_an_old_run_is_warm_started_from(command, run, corpus, tmp_path):
    code, said, errors = command("train.py", *of(tmp_path / "new", corpus), f"--gin.INIT_FROM={run}", "--gin.SEED=1")
    assert code == 0 and f"the parameters of {run}@3" in said, errors
    # The loss of the old run's fourth step, not that of a first step, which is above 4.72.
    assert read(tmp_path / "new")[0]["loss"] < 4.69


def test_an_old_run_whose_text_gives_other_tokens_now_is_not_resumed(command, run, corpus):
    record = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(record | {"data": "0" * 64}))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, _, errors = command("train.py", *of(run, corpus))
    assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    for part in ("tokenised otherwise since version 0.5.0 (by sentencepiece alone)", f"--gin.INIT_FROM={run}"):
        assert part in errors
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_an_old_run_does_not_go_on_with_the_split_of_today_and_hears_of_the_setting(command, run, corpus, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    begun = *on_today_s_split(tmp_path / "new", corpus), f"--gin.INIT_FROM={run}"
    for script, arguments in (("train.py", on_today_s_split(run, corpus)), ("train.py", begun)):
        code, _, errors = command(script, *arguments)
        assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
        assert "vocabulary" in errors and "--gin.HOLD_OUT_BY=name" in errors
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


@pytest.fixture
def numbered(corpus, tmp_path):
    """The corpus with numbers after its sentences."""
    (tmp_path / "numbered").mkdir()
    for number, path in enumerate(sorted(corpus.iterdir())):
        draw = random.Random(number)
        sentences = path.read_text(encoding="utf-8").strip().removesuffix(".").split(". ")
        longer = (f"{each}. {draw.randrange(10**6)}, {draw.randrange(10**3)}." for each in sentences)
        (tmp_path / "numbered" / path.name).write_text(" ".join(longer) + "\n", encoding="utf-8")
    return tmp_path / "numbered"


def test_text_that_is_segmented_otherwise_now_is_a_warm_start_and_no_resume(command, other, numbered, tmp_path):
    code, _, errors = command("train.py", *of(other, numbered, "other_tokens"))
    assert code == 2 and "tokenised otherwise since version 0.5.0" in errors
    begun = *of(tmp_path / "new", numbered, "other_tokens"), f"--gin.INIT_FROM={other}"
    code, said, errors = command("train.py", *begun, "--gin.SEED=1")
    assert code == 0 and f"the parameters of {other}@3" in said, errors
    assert read(tmp_path / "new")[0]["loss"] < 5.24
    code, _, errors = command("train.py", *begun, "--gin.INIT_OPTIMIZER=True", f"--gin.MODEL_DIR={tmp_path / 'newer'}")
    assert code == 2 and "tokenised otherwise since version 0.5.0" in errors
