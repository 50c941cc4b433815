"""A sixth paper is one objective file and one gin file: nothing of mixlm is edited, registered or subclassed."""

import json
import os
import subprocess
import sys

from support import places

LAUNCH = places.LAUNCH / "train.py"

OBJECTIVE = '''
"""Deshuffling: the decoder says the tokens in order that the encoder reads shuffled (T5, section 3.3.1)."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from mixlm.objectives.corruption import shift_right
from mixlm.example import Example
from mixlm.losses.score import CrossEntropy
from mixlm.objectives.base import score_example
from mixlm.tokens import TokenIds


@dataclass(frozen=True)
class Deshuffling:
    tokens: TokenIds
    name: ClassVar[str] = "deshuffling"
    networks: ClassVar[tuple[str, ...]] = ("model",)

    def block_length(self, lengths):
        return lengths["inputs"]

    def corrupt(self, keys, batch, step=0):
        rows = batch["tokens"]
        return Example(
            encoder_input_tokens=jax.vmap(jax.random.permutation)(keys, rows),
            decoder_input_tokens=jax.vmap(lambda row: shift_right(row, self.tokens.bos))(rows),
            decoder_target_tokens=rows,
            decoder_loss_weights=jnp.ones(rows.shape),
            decoder_mask_ar=jnp.ones_like(rows),
        )

    def __call__(self, nets, batch, keys, step):
        return score_example(nets["model"], self.corrupt(keys, batch), self.name, CrossEntropy())
'''

RECIPE = """
from __gin__ import dynamic_registration

import deshuffling
from mixlm import curriculum
from mixlm.data import vocabulary
from mixlm.models import t5

include 'base.gin'
include 'data/text.gin'
include 'models/t5.gin'
include 'models/t5_tiny.gin'
include 'optim/adamw_cosine.gin'

RECIPE = "deshuffling"
TRAIN_STEPS = 6
BATCH_SIZE = 8
VOCAB_SIZE = 112
EMB_DIM = 16
WARMUP_STEPS = 0
EVAL_BATCHES = 1
TASK_FEATURE_LENGTHS = {"inputs": 16, "targets": 16}
tokens.TokenIds.sentinels = 20
vocabulary.TrainedSentencePiece.sentinels = 20
NETWORKS = {"model": @t5.EncoderDecoder()}
t5.EncoderDecoder:
  num_encoder_layers = 1
  num_decoder_layers = 1
CURRICULUM = @curriculum.Curriculum()
curriculum.Curriculum.stages = (@curriculum.Stage(),)
curriculum.Stage.start = 0
curriculum.Stage.objective = @deshuffling.Deshuffling()
deshuffling.Deshuffling.tokens = %TOKENS
"""


def test_a_sixth_objective_is_one_python_file_and_one_gin_file(corpus, tmp_path):
    (tmp_path / "deshuffling.py").write_text(OBJECTIVE)
    (tmp_path / "deshuffling.gin").write_text(
        RECIPE.replace("from mixlm.data", "from mixlm import tokens\nfrom mixlm.data")
    )
    run = tmp_path / "run"
    command = [sys.executable, str(LAUNCH), "--gin_file=deshuffling.gin", f"--gin_search_paths={tmp_path}"]
    flags = [f"--gin.TEXT={corpus}", f"--gin.MODEL_DIR={run}", "--gin.LOG_PERIOD=1"]
    # One device and XLA's own defaults, as a user has them.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(tmp_path)
    done = subprocess.run([*command, *flags], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    record = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in record] == [1, 2, 3, 4, 5, 6]
    assert record[-1]["train/deshuffling"] < record[0]["train/deshuffling"]
    assert "validation/deshuffling" in record[-1]
    assert (run / "curves.png").exists()
