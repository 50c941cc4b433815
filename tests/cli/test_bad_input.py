"""A mistake ends in one sentence on stderr and exit code 2, with nothing written and nothing lost."""

import sys

import pytest

from mixlm.cli import train
from mixlm.gin_config.flags import run_or_explain_error

SPACTOR = ("--gin_file=spactor.gin",)
TEXT = ("--gin_file=spactor.gin", "--gin_file=data/text.gin", "--gin.VOCAB_SIZE=128")
SMALL = (
    "--gin.TokenIds.sentinels=20",
    "--gin.TrainedSentencePiece.sentinels=20",
    "--gin.EMB_DIM=16",
    "--gin.TRAIN_STEPS=2",
    "--gin.TAU=1",
)


@pytest.fixture
def complain(monkeypatch, capsys, tmp_path):
    """Runs the command line, and returns the one sentence that it must end in."""

    def run(*arguments: str) -> str:
        folder = tmp_path / "run"
        before = sorted(folder.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["launch/train.py", *arguments, f"--gin.MODEL_DIR={folder}"])
        with pytest.raises(SystemExit) as ended:
            run_or_explain_error(train.main)
        assert ended.value.code == 2
        assert sorted(folder.rglob("*")) == before
        error = capsys.readouterr().err.splitlines()
        assert error[-1].startswith("error: ") and error[-1].endswith((".", "?"))
        assert not any("Traceback" in line for line in error)
        return error[-1]

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gin_file=spacter.gin"], ["spacter.gin", "Did you mean 'spactor.gin'?"]),
        (["--gin_fil=spactor.gin"], ["--gin_fil", "Did you mean '--gin_file'?"]),
        ([], ["--gin_file=NAME", "spactor.gin"]),
        ([*SPACTOR, "--gin.TAUU=3"], ["TAUU", "Did you mean 'TAU'?"]),
        ([*SPACTOR, "--gin.SpacTor.lamda1=3"], ["lamda1", "Did you mean 'lambda1'?"]),
        ([*SPACTOR, "--gin.SpakTor.lambda1=3"], ["SpakTor", "Did you mean 'SpacTor'?"]),
        ([*SPACTOR, "--gin.TRAIN_STEPS=many"], ["TRAIN_STEPS", "a whole number", "'many'"]),
        ([*SPACTOR, "--gin.LAMBDA1=-1"], ["SpacTor", "negative"]),
        ([*SPACTOR, "--gin.TAU=7000"], ["7000", "TAU", "1200", "TRAIN_STEPS"]),
        ([*SPACTOR, "--gin.NOISE_DENSITY=1.5"], ["noise_density", "1.5"]),
        (
            [*SPACTOR, '--gin.TASK_FEATURE_LENGTHS={"inputs": 128, "targets": 30}'],
            ["128 inputs", "30 targets", "128 and 29"],
        ),
        ([*SPACTOR, "--gin.TASK_FEATURE_LENGTHS=128"], ["TASK_FEATURE_LENGTHS", "128"]),
        ([*SPACTOR, '--gin.TASK_FEATURE_LENGTHS={"input": 128, "targets": 29}'], ["'inputs'", "input"]),
        ([*SPACTOR, "--gin.MICROBATCHES=5"], ["5", "MICROBATCHES", "32"]),
        ([*SPACTOR, "--gin.EncoderDecoder.vocab_size=100"], ["model", "100", "1024"]),
        ([*SPACTOR, "--gin.EncoderDecoder.num_encoder_layers=0"], ["num_encoder_layers", "0"]),
        ([*SPACTOR, "--gin.DTYPE=float23"], ["float23", "float32"]),
        ([*TEXT], ["--gin.TEXT"]),
    ],
)
def test_a_mistake_is_named_before_anything_is_done(complain, arguments, words):
    sentence = complain(*arguments)
    for word in words:
        assert word in sentence


def test_a_head_of_another_width(complain, corpus):
    sentence = complain(*TEXT, *SMALL, f"--gin.TEXT={corpus}", "--gin.VOCAB_SIZE=112", "--gin.TokenHead.emb_dim=32")
    assert "emb_dim" in sentence and "32" in sentence and "16" in sentence


def test_a_batch_that_the_devices_do_not_divide(complain, corpus):
    sentence = complain(*TEXT, *SMALL, f"--gin.TEXT={corpus}", "--gin.VOCAB_SIZE=112", "--gin.BATCH_SIZE=12")
    assert "12 rows" in sentence and "8 devices" in sentence and sentence.endswith(("is 16.", "is 8."))


def test_a_mesh_that_the_devices_do_not_fill(complain, corpus):
    sentence = complain(*TEXT, *SMALL, f"--gin.TEXT={corpus}", "--gin.VOCAB_SIZE=112", "--gin.TENSOR_PARTITIONS=3")
    assert "3" in sentence and "8 devices" in sentence


def test_text_that_is_not_there(complain, corpus):
    sentence = complain(*TEXT, f"--gin.TEXT={corpus.parent / 'corpuss0'}")
    assert "corpuss0" in sentence and f"Did you mean '{corpus}'?" in sentence


def test_text_that_is_empty(complain, tmp_path):
    (tmp_path / "nothing.txt").write_text("")
    assert "nothing.txt" in complain(*TEXT, f"--gin.TEXT={tmp_path / 'nothing.txt'}")


def test_text_that_is_not_utf8(complain, tmp_path):
    (tmp_path / "old.txt").write_bytes(b"a caf" + b"\xe9 in the harbour\n" * 500)
    sentence = complain(*TEXT, f"--gin.TEXT={tmp_path / 'old.txt'}")
    assert "old.txt" in sentence and "UTF-8" in sentence and "5" in sentence


def test_a_vocabulary_that_the_text_cannot_fill(complain, corpus):
    sentence = complain(*TEXT, f"--gin.TEXT={corpus}", "--gin.VOCAB_SIZE=8192")
    assert "VOCAB_SIZE = 8192" in sentence and "at most" in sentence


def test_a_folder_that_holds_something_else(complain, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("two years of work")
    assert "recipe.json" in complain(*SPACTOR)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "two years of work"


def test_a_folder_that_holds_another_run(complain, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text('{"name": "dual", "seed": "0"}')
    sentence = complain(*SPACTOR)
    assert "dual" in sentence and "MODEL_DIR" in sentence
