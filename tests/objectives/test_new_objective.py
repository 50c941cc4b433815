"""A new objective is one Python file and one gin file: nothing of mixlm is edited, registered or subclassed."""

from support import from_outside

OBJECTIVE = '''
"""Deshuffling: the decoder says the tokens in order that the encoder reads shuffled (T5, section 3.3.1)."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from mixlm.example import Example
from mixlm.losses.token_losses import CrossEntropy
from mixlm.objectives.base import score_example
from mixlm.objectives.corruption import shift_right
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
from mixlm.models import t5

include 'tiny.gin'
include 'models/t5.gin'
include 'models/t5_tiny.gin'

RECIPE = "deshuffling"
EMB_DIM = 16
NETWORKS = {"model": @t5.EncoderDecoder()}
t5.EncoderDecoder:
  num_encoder_layers = 1
  num_decoder_layers = 1
OBJECTIVE = @deshuffling.Deshuffling()
deshuffling.Deshuffling.tokens = %TOKENS
"""


def test_a_new_objective_is_one_python_file_and_one_gin_file(corpus, tmp_path):
    files = {"deshuffling.py": OBJECTIVE, "deshuffling.gin": RECIPE}
    from_outside.run(tmp_path, corpus, files, ("train", "--gin_file=deshuffling.gin"))
    found = from_outside.records(tmp_path)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    assert found[-1]["train/deshuffling"] < found[0]["train/deshuffling"]
    assert "validation/deshuffling" in found[-1]
    assert (tmp_path / "run" / "curves.png").exists()
