"""A packed row costs what its pairs cost alone, with an encoder and with the inputs as a prefix."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import SIZE

from mixlm.data.dataset import Dataset
from mixlm.data.loader.packing import packed
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import UserError
from mixlm.losses.score import token_costs
from mixlm.models.gpt_bert import GPTBert
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.network import bind
from mixlm.objectives.classification import Classification
from mixlm.objectives.pairs import PairDiffusion
from mixlm.objectives.requirements import check_packing
from mixlm.objectives.seq2seq import Seq2Seq, segments
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

# Compiling is most of the time here, and these few numbers need no optimised code.
QUICK = {"xla_backend_optimization_level": 0}
TOKENS = TokenIds(112, mask=4, bos=3, sentinels=20)
LENGTHS = {"inputs": 14, "targets": 9}
PAIRS = [([11, 12], [21]), ([13, 14, 15, 16], [22, 23, 24]), ([31, 32, 33, 17, 18], [25, 26])]
SMALL = {**SIZE, "vocab_size": 112}
BERT = {**SMALL, "num_layers": 2, "num_buckets": 32, "max_position": 64}
NETWORKS = {
    "t5": lambda: EncoderDecoder(**SMALL, num_encoder_layers=1, num_decoder_layers=1),
    "decoder": lambda: DecoderOnly(**SMALL, num_layers=2),
    "llama": lambda: Llama(**SMALL, num_layers=2),
    "ltg_bert": lambda: LTGBert(**BERT),
    "gpt_bert": lambda: GPTBert(**BERT),
}


def padded(read, said):
    inputs, targets = LENGTHS["inputs"], LENGTHS["targets"]
    return [0] * (inputs - len(read)) + read + said + [0] * (targets - len(said))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_packed_row_costs_what_its_pairs_cost_alone(name):
    module = NETWORKS[name]()
    params = jax.jit(lambda key: module.init(key, *module.inputs())["params"], compiler_options=QUICK)(
        jax.random.key(0)
    )
    alone = Seq2Seq(TOKENS, LENGTHS)

    @partial(jax.jit, static_argnums=0, compiler_options=QUICK)
    def scored(objective, params, rows):
        example = objective.corrupt(row_keys(0, 0, len(rows)), {"tokens": rows})
        net = bind({"model": module}, {"model": params})["model"]
        return token_costs(net.logits, net.hidden(example), example.decoder_target_tokens), example.decoder_segments

    def costs(objective, rows):
        """The costs of each pair's targets, in the order of rows and segments."""
        found = map(np.asarray, scored(objective, params, jnp.asarray(rows, jnp.int32)))
        return [row[held == number] for row, held in zip(*found) for number in range(1, int(held.max()) + 1)]

    empty = [0] * sum(LENGTHS.values())
    together = packed([tuple(map(np.asarray, pair)) for pair in PAIRS], LENGTHS)
    wanted = costs(alone, [padded(*pair) for pair in PAIRS])
    # Evaluation lays pairs out one a row: a packed objective reads that as well.
    for rows in ([empty, together.tolist(), empty], [padded(*pair) for pair in PAIRS]):
        found = costs(replace(alone, packed=True), rows)
        assert [len(each) for each in found] == [len(said) for _, said in PAIRS]
        for mine, theirs in zip(found, wanted):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_runs_between_paddings_are_segments():
    rows = jnp.asarray([[5, 6, 0, 7, 8, 9, 0, 0], [0, 0, 5, 0, 6, 0, 0, 7], [0] * 8])
    found = [part.tolist() for part in segments(rows, 0)]
    assert found[0] == [[1, 1, 0, 2, 2, 2, 0, 0], [0, 0, 1, 0, 2, 0, 0, 3], [0] * 8]
    assert found[1] == [[0, 1, 0, 0, 1, 2, 0, 0], [0] * 8, [0] * 8]


def test_packed_rows_and_what_reads_them_go_together():
    head = Classification(TOKENS, {"inputs": 14, "targets": 1})
    for other in (head, PairDiffusion(TOKENS, LENGTHS)):
        with pytest.raises(
            UserError, match=rf"^PACKED rows have several pairs, and the objective '{other.name}' reads "
        ):
            check_packing([other], True)
        check_packing([other], False)
    both = Seq2Seq(TOKENS, LENGTHS), Seq2Seq(TOKENS, LENGTHS, packed=True)
    for objective, data in zip(both, (True, False)):
        with pytest.raises(
            UserError, match=r"^The objective 'seq2seq' reads (packed rows|one pair a row), and the data"
        ):
            check_packing([objective], data)
        check_packing([objective], not data)
    assert repr(both[0]) == repr(both[1]), "runs of before go on: identity names what was added apart"
    with pytest.raises(UserError, match=r"^PACKED rows hold pairs of inputs and targets, and these data are text\.$"):
        Dataset(TextTask("text", TextFiles("text"), TrainedSentencePiece(112, 20)), packed=True)
