"""A prompt of `mixlm decode` is read as the inputs of the data's pairs are, with EOS where these have it."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import SIZE

from mixlm.data.loader.pairs import Pairs, inputs_end_with
from mixlm.data.store.token_store import StoreSplit
from mixlm.decoding.run import _as_inputs
from mixlm.decoding.strategies import STRATEGIES
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.objectives.pairs import PairDiffusion, PairLM
from mixlm.objectives.seq2seq import Seq2Seq
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

TOKENS = TokenIds(112, mask=4, bos=3, sentinels=20)
LENGTHS = {"inputs": 16, "targets": 1}  # as long as prompts are padded to
OBJECTIVES = [
    (Seq2Seq, EncoderDecoder(**SIZE, num_encoder_layers=1, num_decoder_layers=1)),
    (Seq2Seq, DecoderOnly(**SIZE, num_layers=1)),
    (PairLM, DecoderOnly(**SIZE, num_layers=1)),
    (PairDiffusion, DecoderOnly(**SIZE, num_layers=1)),
]


def split(ends):
    inputs = [[11, 12, 13, *ends], [14, 15, *ends], list(range(20, 40))]  # the last was cut by its task
    offsets = np.cumsum([0, *(len(row) + 1 for row in inputs)])
    tokens = np.asarray([token for row in inputs for token in (*row, 21)], np.uint32)
    return StoreSplit(tokens, offsets, 0, offsets[1:] - 1)


@pytest.mark.parametrize("ends", [[], [TOKENS.eos]])
@pytest.mark.parametrize(("kind", "module"), OBJECTIVES)
def test_a_prompt_is_what_training_reads(kind, module, ends):
    held, objective = split(ends), kind(TOKENS, LENGTHS)
    data = SimpleNamespace(parts=[SimpleNamespace(store=SimpleNamespace(split={"train": held}.get))])
    (decoding,) = objective.decodings
    strategy, rows = _as_inputs(STRATEGIES[decoding.strategy](**decoding.settings), ([11, 12, 13],), data, TOKENS)
    prompt = strategy.read(module, rows, TOKENS)
    trained = next(row for row in Pairs(held, LENGTHS, 0).blocks(np.arange(3)) if 11 in row)
    if kind is Seq2Seq:
        example = objective.corrupt(row_keys(0, 0, 1), {"tokens": jnp.asarray(trained[None])})
        seen, wanted = (each.encoder_input_tokens[0] for each in (prompt, example))
    else:
        # A decoder's prompt ends where its first target is predicted.
        read = trained[:16][trained[:16] > 0]
        seen, wanted = prompt.decoder_input_tokens[0], [TOKENS.bos, *read] if kind is PairLM else read
    assert [token for token in np.asarray(seen).tolist() if token] == [t for t in np.asarray(wanted).tolist() if t]
    assert inputs_end_with([held], TOKENS.eos) == bool(ends)
