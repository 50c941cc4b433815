"""launch/evaluate.py: one checkpoint in, one table with a column per mode out, and a sentence for every mistake."""

import csv
import json
import os
import re
import sys

import jax
import pytest

import mixlm
from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.cli import evaluate
from mixlm.evaluation.run import Scoring, prepare
from mixlm.gin_config.build import configured, operative_config
from mixlm.gin_config.flags import parse_flags, run_or_explain_error
from mixlm.recipe import Recipe
from mixlm.training.initial_state import initial_state

DECODER = """
from __gin__ import dynamic_registration

from mixlm.objectives import curriculum
from mixlm.data import vocabulary
from mixlm.models import t5_decoder
from mixlm.objectives import causal
from mixlm import tokens

include 'base.gin'
include 'data/text.gin'
include 'optim/adamw_cosine.gin'

RECIPE = "small"
TRAIN_STEPS = 7
WARMUP_STEPS = 1
VOCAB_SIZE = 112
TASK_FEATURE_LENGTHS = {"targets": 16}
tokens.TokenIds.sentinels = 20
vocabulary.TrainedSentencePiece.sentinels = 20
HEADS = 2
NETWORKS = {"model": @t5_decoder.DecoderOnly()}
t5_decoder.DecoderOnly:
  vocab_size = %VOCAB_SIZE
  emb_dim = 16
  num_heads = %HEADS
  head_dim = 8
  mlp_dim = 16
  num_layers = 1
CURRICULUM = @curriculum.Curriculum()
curriculum.Curriculum.stages = (@curriculum.Stage(),)
curriculum.Stage.start = 0
curriculum.Stage.objective = @causal.Causal()
causal.Causal.tokens = %TOKENS
"""
SPACTOR = (
    "--gin_file=spactor.gin",
    "--gin_file=data/text.gin",
    "--gin.VOCAB_SIZE=112",
    "--gin.TokenIds.sentinels=20",
    "--gin.TrainedSentencePiece.sentinels=20",
    "--gin.EMB_DIM=16",
    "--gin.EncoderDecoder.num_encoder_layers=1",
    "--gin.EncoderDecoder.num_decoder_layers=1",
    "--gin.TRAIN_STEPS=2",
    "--gin.TAU=1",
)
PAIRS = {
    "agreement": [
        ("The farmer sells a boat.", "The farmer sell a boat."),
        ("Every teacher hides.", "Every teacher hide."),
    ],
    "order": [
        ("A sailor paints.", "Paints a sailor."),
        ("The baker.", "The baker."),
        ("The teacher.", "The teacher teacher."),
    ],
}


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Runs on one device, which compiles sooner."""
    devices = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices)
        yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blimp")
    for name, each in PAIRS.items():
        lines = [
            json.dumps({"sentence_good": good, "sentence_bad": bad, "UID": name, "field": f"{name}_field"})
            for good, bad in each
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def run_of(arguments):
    """Makes a run's folder with the checkpoint of step 7, without training."""
    recipe = configured(parse_flags(arguments, ""), Recipe)
    data = recipe.dataset.prepare(lambda _: None)
    folder = RunDir(recipe.folder)
    folder.acquire(recipe.identity() | {"vocabulary": data.vocabulary.fingerprint}, operative_config())
    create, _ = initial_state(dict(recipe.modules), recipe.optimizer, recipe.seed, recipe.partitioning.mesh())
    checkpoints = Checkpoints(folder.checkpoints)
    checkpoints.save(7, create())
    checkpoints.close()
    folder.release()
    return recipe.folder


@pytest.fixture(scope="module")
def decoder(corpus, tmp_path_factory):
    """The arguments of a decoder's recipe, whose run exists."""
    place = tmp_path_factory.mktemp("decoder")
    (place / "small.gin").write_text(DECODER)
    arguments = (f"--gin_file={place / 'small.gin'}", f"--gin.TEXT={corpus}", f"--gin.MODEL_DIR={place / 'run'}")
    run_of(arguments)
    return place / "run", arguments


def evaluated(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["launch/evaluate.py", *arguments])
    run_or_explain_error(evaluate.main)


def complaint(monkeypatch, capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        evaluated(monkeypatch, *arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("error: ") and error[-1].endswith((".", "?"))
    assert not any("Traceback" in line for line in error)
    return error[-1]


def test_a_decoder_is_scored_in_every_mode(decoder, pairs, monkeypatch, capsys):
    run, arguments = decoder
    monkeypatch.setenv("COLUMNS", "100")
    settings = ("--gin.SCORED_ROWS=3", "--gin.NOISE_SAMPLES=2", "--gin.BOOTSTRAP_RESAMPLES=50")
    evaluated(monkeypatch, *arguments, f"--gin.MINIMAL_PAIRS={pairs}", *settings)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if line.startswith(("kind", "overall", "nats"))) <= 100
    table = [line for line in lines if line.startswith("overall ")]
    shown = [float(cell) for line in table for cell in line.split()[1:] if line.startswith("overall ")]
    folder = run / "evaluation" / os.readlink(run / "evaluation" / "latest")
    assert re.fullmatch(rf"step_7-3_rows-{pairs.name}-[0-9a-f]{{8}}", folder.name)
    content = json.loads((folder / "minimal_pairs.json").read_text())
    assert content["step"] == 7 and len(content["modes"]) == 10
    assert content["convention"] == {"normalisation": "sum", "context": None, "ties": "half"}
    assert "pairs: sum of log-probabilities, in each mode's own context; a tie counts half." in lines
    found = [100 * mode["overall"]["value"] for mode in content["modes"].values()]
    assert shown == pytest.approx(found, abs=0.051)
    # Two equal sentences are a tie in every mode, worth half of one pair of three.
    assert all(mode["ties"] >= 1 for mode in content["modes"].values())
    values = [mode["paradigms"]["order"]["value"] for mode in content["modes"].values()]
    assert all(round(6 * value) in (1, 3, 5) for value in values)
    text = json.loads((folder / "text.json").read_text())["modes"]
    assert text["fused_shifted"] is None
    # A network that has learnt nothing finds 112 tokens about equally likely.
    assert text["causal"]["nats_per_token"] == pytest.approx(4.7, abs=1.0)
    assert text["causal"]["tokens"] == 48 and text["prefix"]["tokens"] == 24
    with (folder / "minimal_pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 * (2 + 2 + 2)
    assert (folder / "minimal_pairs.png").stat().st_size > 10_000
    assert f"In {folder}: text.json, minimal_pairs.json" in lines[-1] and "evaluation/latest is a link" in lines[-1]
    assert text["causal"]["bytes"] > 48 and text["causal"]["unknown"] == 0
    assert any("bytes, 0.00% of them <unk>" in line for line in lines)
    assert mixlm.Run(run).evaluation == {
        "text": json.loads((folder / "text.json").read_text()),
        "minimal_pairs": content,
    }


def test_the_network_called_model_is_scored_among_others(corpus, pairs, tmp_path, monkeypatch, capsys):
    arguments = (*SPACTOR, f"--gin.TEXT={corpus}", f"--gin.MODEL_DIR={tmp_path / 'run'}")
    run_of(arguments)
    evaluated(monkeypatch, *arguments, "--gin.SCORED_ROWS=2", "--gin.MODES=prefix,filling_3")
    out = capsys.readouterr().out
    assert "network model (EncoderDecoder)" in out and "filling" in out and "causal" not in out
    latest = tmp_path / "run" / "evaluation" / "latest"
    assert [path.name for path in latest.iterdir()] == ["text.json"]
    sentence = complaint(monkeypatch, capsys, *arguments, "--gin.SCORED_NETWORK=rtd_head")
    assert "TokenHead has no logits()" in sentence
    sentence = complaint(monkeypatch, capsys, *arguments, "--gin.SCORED_NETWORK=modle")
    assert "Did you mean 'model'?" in sentence


def test_every_sentence_has_its_score_and_those_of_its_tokens(decoder, pairs, tmp_path, monkeypatch, capsys):
    run, arguments = decoder
    asked = (f"--gin.MINIMAL_PAIRS={pairs}", "--gin.SCORED_ROWS=2", "--gin.MODES=causal", "--token_scores")
    evaluated(monkeypatch, *arguments, *asked, f"--scores={tmp_path / 'all.jsonl'}")
    assert capsys.readouterr().out.splitlines()[-1] == f"Scores of 12 sentences are in {tmp_path / 'all.jsonl'}."
    records = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    for record in records:
        scores = [token["scores"]["causal"] for token in record["tokens"]]
        assert sum(scores) == pytest.approx(record["scores"]["causal"], abs=1e-4) and max(scores) < 0
        if record["set"] == "pairs":
            for token in record["tokens"]:
                assert record["text"].encode()[token["offset"] :].startswith(token["text"].encode())
            assert "".join(token["text"] for token in record["tokens"]) == record["text"]
    good, bad = ([r for r in records if r.get("side") == side] for side in ("good", "bad"))
    assert [each["text"] for each in bad] == [bad for each in PAIRS.values() for _, bad in each]
    right = {name: [] for name in PAIRS}
    for a, b in zip(good, bad):
        worth = 0.5 if a["text"] == b["text"] else float(a["scores"]["causal"] > b["scores"]["causal"])
        right[a["paradigm"]].append(worth)
    found = mixlm.Run(run).evaluation["minimal_pairs"]["modes"]["causal"]["paradigms"]
    assert {name: sum(each) / len(each) for name, each in right.items()} == {n: i["value"] for n, i in found.items()}


def test_explain_scores_and_writes_nothing(decoder, pairs, monkeypatch, capsys):
    run, arguments = decoder
    before = sorted(run.rglob("*"))
    evaluated(monkeypatch, *arguments, f"--gin.MINIMAL_PAIRS={pairs}", "--gin.PAIRS=1", "--explain")
    out = capsys.readouterr().out
    assert "2 in 2 paradigms" in out and "pll_shifted: " in out and "fused_shifted: the sum" in out
    preset = "--gin_file=evaluation/babylm_2025_mlm.gin"
    evaluated(monkeypatch, *arguments, preset, f"--gin.MINIMAL_PAIRS={pairs}", "--explain")
    lines = capsys.readouterr().out.splitlines()
    assert "judged   sum of log-probabilities, read as <s> sentence </s>; a tie is right." in lines
    assert [line.split(":")[0] for line in lines if line.endswith("of pairs")] == ["pll_unshifted"]
    assert sorted(run.rglob("*")) == before


def test_a_sentinel_s_name_in_a_pair_is_plain_text(decoder, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"sentence_good": "A <extra_id_0>.", "sentence_bad": "<mask></s><extra_id_1>"}')
    recipe = configured(parse_flags(decoder[1], ""), Recipe)
    pairs = prepare(recipe, Scoring(minimal_pairs=str(tmp_path), rows=1), lambda _: None).pairs
    special = {*range(recipe.tokens.vocab_size - recipe.tokens.sentinels, recipe.tokens.vocab_size), 0, 1, 3, 4}
    assert pairs is not None and all(len(row) > 3 and not special & {*row} for row in pairs.tokens)


def test_an_empty_sentence_is_refused_before_anything_is_scored(decoder, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.jsonl").write_text('{"sentence_good": "x", "sentence_bad": " "}')
    sentence = complaint(monkeypatch, capsys, *decoder[1], f"--gin.MINIMAL_PAIRS={tmp_path}", "--gin.MODES=causal")
    assert "a.jsonl, line 1: 'sentence_bad' ' ' cannot be scored: it has no token." in sentence


def test_the_printed_config_and_the_run_s_own_config_are_recipes(decoder, tmp_path, monkeypatch, capsys):
    run, arguments = decoder
    evaluated(monkeypatch, *arguments, "--gin.SCORED_ROWS=1", "--gin.MODES=causal", "--print_config")
    printed = capsys.readouterr().out
    assert "SCORED_ROWS = 1" in printed and "run.Scoring.rows = %SCORED_ROWS" in printed
    (tmp_path / "printed.gin").write_text(printed)
    evaluated(monkeypatch, f"--gin_file={tmp_path / 'printed.gin'}")
    evaluated(monkeypatch, f"--gin_file={run / 'config.gin'}", "--gin.SCORED_ROWS=1", "--gin.MODES=causal")
    bits = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bits per byte")]
    assert len(bits) == 2 and bits[0] == bits[1]
    # Both are one evaluation, whose folder holds nothing of another's.
    latest = run / "evaluation" / "latest"
    assert os.readlink(latest).startswith("step_7-1_rows-") and os.listdir(latest) == ["text.json"]
    assert len(list(latest.parent.glob("step_7-1_rows-*"))) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--gin.MINIMAL_PAIR=x"], ["MINIMAL_PAIR", "Did you mean 'MINIMAL_PAIRS'?"]),
        (["--gin.MODES=causl"], ["'causl'", "Did you mean 'causal'?"]),
        (["--gin.MINIMAL_PAIRS=/no/such/folder"], ["no folder of minimal pairs '/no/such/folder'"]),
        (["--gin.MINIMAL_PAIRS=tfds:"], ["'tfds:' names no builder"]),
        (["--gin.CONTEXT='cls'"], ["CONTEXT is one of", "'cls'"]),
        (["--gin.NOISE_SAMPLES=3"], ["even number", "3"]),
        (["--gin.SCORED_ROWS=0"], ["SCORED_ROWS", "0", "at least 1"]),
        (["--gin.PAIRS=many"], ["PAIRS", "a whole number", "'many'"]),
        (["--gin.HEADS=4", "--gin.DecoderOnly.head_dim=4"], ["holds a run with other networks", "config.gin"]),
        (["--gin.TokenIds.unk=5"], ["holds a run with other tokens"]),
        (["--explian"], ["Did you mean '--explain'?"]),
        (["--scores=a.csv"], ["a file that ends in .jsonl or .parquet, not 'a.csv'"]),
        (["--scores=/no/such/a.jsonl"], ["lies in no folder that there is: make /no/such first"]),
        (["--token_scores"], ["give --scores=FILE.jsonl as well"]),
    ],
)
def test_a_mistake_is_named(decoder, monkeypatch, capsys, given, words):
    run, arguments = decoder
    before = sorted(run.rglob("*"))
    sentence = complaint(monkeypatch, capsys, *arguments, *given)
    assert all(word in sentence for word in words), sentence
    assert sorted(run.rglob("*")) == before


def test_a_run_that_is_not_there_is_named(decoder, corpus, tmp_path, monkeypatch, capsys):
    run, arguments = decoder
    near = f"--gin.MODEL_DIR={run.parent / 'rum'}"
    assert f"Did you mean '{run}'?" in complaint(monkeypatch, capsys, *arguments, near)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "recipe.json").write_text((run / "recipe.json").read_text())
    sentence = complaint(monkeypatch, capsys, *arguments, f"--gin.MODEL_DIR={tmp_path / 'empty'}")
    assert "no checkpoint yet" in sentence
    held = json.loads((run / "recipe.json").read_text()) | {"vocabulary": "of other text"}
    (tmp_path / "empty" / "recipe.json").write_text(json.dumps(held))
    sentence = complaint(monkeypatch, capsys, *arguments, f"--gin.MODEL_DIR={tmp_path / 'empty'}")
    assert "holds a run with other vocabulary" in sentence
    (tmp_path / "empty" / "recipe.json").write_text("{")
    assert "damaged" in complaint(monkeypatch, capsys, *arguments, f"--gin.MODEL_DIR={tmp_path / 'empty'}")


def test_without_a_recipe_the_recipes_are_listed(monkeypatch, capsys):
    sentence = complaint(monkeypatch, capsys)
    assert "--gin_file=NAME" in sentence and "spactor.gin" in sentence and "evaluate.gin" not in sentence
