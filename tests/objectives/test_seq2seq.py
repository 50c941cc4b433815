"""Inputs are read, targets are said and scored, padding is neither: with an encoder, and as a prefix without one."""

import json
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import DEVICES, SIZE

from mixlm.data.dataset import Dataset
from mixlm.data.seqio_task import SeqioTask
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.decoding.strategies import STRATEGIES
from mixlm.errors import UserError
from mixlm.evaluation.run import Scoring, prepare
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.losses.token_losses import CrossEntropy
from mixlm.models.llama import Llama
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.network import bind
from mixlm.objectives.base import Objective, RowObjective
from mixlm.objectives.causal import Causal
from mixlm.objectives.curriculum import Blocks
from mixlm.objectives.seq2seq import Seq2Seq
from mixlm.recipe import Recipe
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds
from mixlm.training import run as loop

TOKENS = TokenIds(112, mask=4, bos=3, sentinels=20)
LENGTHS = {"inputs": 4, "targets": 3}
PAIRS = [([11, 12], [21]), ([13, 14, 15, 16], [22, 23, 24]), ([], [25, 26]), ([17], [])]


def rows(inputs: int = 4, targets: int = 3) -> dict:
    made = [[0] * (inputs - len(read)) + read + said + [0] * (targets - len(said)) for read, said in PAIRS]
    return {"tokens": jnp.asarray(made, jnp.int32)}


def test_an_example_is_its_pair():
    objective = Seq2Seq(TOKENS, LENGTHS)
    assert isinstance(objective, Objective) and isinstance(objective, RowObjective)
    assert hash(objective) == hash(Seq2Seq(TOKENS, {"targets": 3, "inputs": 4}))
    assert objective.block_length(LENGTHS) == 7
    example = jax.jit(objective.corrupt)(row_keys(0, 0, 4), rows())
    for row, (read, said) in enumerate(PAIRS):
        seen = example.encoder_segment_ids[row] > 0
        assert example.encoder_input_tokens[row][seen].tolist() == (read or [0])
        scored = example.decoder_loss_weights[row] > 0
        assert example.decoder_target_tokens[row][scored].tolist() == said
        assert example.decoder_input_tokens[row][scored].tolist() == [3, *said][: len(said)]
        np.testing.assert_array_equal(example.decoder_segments[row] > 0, scored)


@pytest.mark.parametrize("kind", [DecoderOnly, EncoderDecoder])
def test_a_prompt_is_read_as_the_inputs_of_a_pair(kind):
    # As long as prompts are padded to, and with the EOS that ends the inputs of a Task.
    objective, read = Seq2Seq(TOKENS, {"inputs": 16, "targets": 1}), [11, 12, 13, TOKENS.eos]
    made = {"tokens": jnp.asarray([[0] * 12 + read + [21]], jnp.int32)}
    example = objective.corrupt(row_keys(0, 0, 1), made)
    (decoding,) = objective.decodings
    strategy = STRATEGIES[decoding.strategy](**decoding.settings)
    layers = {"num_layers": 1} if kind is DecoderOnly else {"num_encoder_layers": 1, "num_decoder_layers": 1}
    prompt = strategy.read(kind(**SIZE | layers), [read[:-1]], TOKENS)
    for name in ("encoder_input_tokens", "encoder_segments", "decoder_input_tokens", "decoder_mask_ar"):
        np.testing.assert_array_equal(getattr(prompt, name), getattr(example, name))


class Uniform:
    """A network that has learnt nothing."""

    def hidden(self, example):
        return jnp.zeros((*example.decoder_target_tokens.shape, 1))

    def logits(self, hidden):
        return jnp.zeros((*hidden.shape[:-1], 112))


def test_uniform_logits_cost_log_v_a_target_token():
    terms = Seq2Seq(TOKENS, LENGTHS)({"model": Uniform()}, rows(), row_keys(0, 0, 4), jnp.asarray(0))
    term = terms["seq2seq"]
    assert float(term.count) == 6
    assert float(term.total / term.count) == pytest.approx(math.log(112), rel=1e-6)


SMALL = {**SIZE, "vocab_size": 112}
NETWORKS = {
    "t5": lambda: EncoderDecoder(**SMALL, num_encoder_layers=1, num_decoder_layers=1),
    "decoder": lambda: DecoderOnly(**SMALL, num_layers=2),
    "llama": lambda: Llama(**SMALL, num_layers=2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_adds_nothing(name):
    module = NETWORKS[name]()
    params = jax.jit(lambda key: module.init(key, *module.inputs())["params"])(jax.random.key(0))

    def cost(inputs: int, targets: int) -> tuple[float, float]:
        objective = Seq2Seq(TOKENS, {"inputs": inputs, "targets": targets})

        @jax.jit
        def terms(params):
            nets = bind({"model": module}, {"model": params})
            return objective(nets, rows(inputs, targets), row_keys(0, 0, 4), jnp.asarray(0))["seq2seq"]

        term = terms(params)
        return float(term.total), float(term.count)

    narrow, wide = cost(4, 3), cost(9, 8)
    assert narrow[1] == wide[1] == 6
    assert narrow[0] == pytest.approx(wide[0], rel=1e-5)


# ---- recipes ------------------------------------------------------------------------------------------------------

MODULE = """
import seqio
import tensorflow as tf

PLACES = ["the harbour", "the mill", "the river", "the war", "the map"]
pairs = seqio.FunctionDataSource(
    lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(
        {{"inputs": ["near " + place for place in PLACES], "targets": [place + " near" for place in PLACES]}}
    ),
    splits=["train", "validation"],
)
feature = seqio.Feature(seqio.SentencePieceVocabulary({model!r}, extra_ids=20))
seqio.TaskRegistry.add(
    "turned_pairs", pairs, preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={{"inputs": feature, "targets": feature}},
)
seqio.MixtureRegistry.add("turned_mixture", [("turned_pairs", 1)])
"""


@pytest.fixture(scope="module")
def module(corpus, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("supervised")
    task = TextTask("corpus", TextFiles(str(corpus)), TrainedSentencePiece(vocab_size=112, sentinels=20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own
        vocabulary = task.load_vocabulary(folder, lambda line: None)
    (folder / "own_tasks.py").write_text(MODULE.format(model=str(vocabulary.path)))
    return str(folder / "own_tasks.py")


def built(module: str, *arguments: str, data: str = "seqio_task", name: str = "turned_pairs") -> Recipe:
    own = (
        f"--gin.TASK_MODULE={module}", f"--gin.MIXTURE_OR_TASK_NAME={name}", "--gin.SENTINELS=20", "--gin.MASK_ID=4",
        "--gin.TOKEN_IDS=112", "--gin.BOS_ID=3", "--gin.VOCAB_SIZE=112",
        '--gin.TASK_FEATURE_LENGTHS={"inputs": 9, "targets": 12}',
    )  # fmt: skip
    files = ("--gin_file=spactor.gin", f"--gin_file=data/{data}.gin", "--gin_file=objectives/seq2seq.gin")
    return configured(parse_flags([*files, *own, *arguments], ""), Recipe)


def test_a_supervised_task_is_a_recipe_of_gin_files(module):
    made = built(module)
    lengths = {"inputs": 9, "targets": 12}
    (objective,) = made.declared
    assert objective == Seq2Seq(made.tokens, lengths, CrossEntropy(1e-4))
    assert made.block_length == 21 and made.stages.at(0).objective == objective
    task = SeqioTask("turned_pairs", module, "train", "validation", 20, 4, 3)
    assert made.dataset == Dataset(task, pairs=lengths)
    mixed = built(module, data="seqio_mixture", name="turned_mixture").dataset
    assert [part.task for part in mixed.parts] == [task] and mixed.pairs == lengths
    dual = parse_flags(["--gin_file=dual.gin", "--gin_file=objectives/seq2seq.gin"], "")
    with pytest.raises(UserError, match=r"there is no 'inputs' in \['targets'\]"):
        configured(dual, Recipe)


def test_a_run_learns_pairs_epoch_by_epoch(module, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])
    small = (
        "--gin.EPOCHS=40", "--gin.TRAIN_STEPS=None", "--gin.BATCH_SIZE=5", f"--gin.MODEL_DIR={tmp_path / 'run'}",
        "--gin.LOG_PERIOD=10", "--gin.EVAL_BATCHES=1", "--gin.EMB_DIM=32", "--gin.DROPOUT_RATE=0.0",
        "--gin.EncoderDecoder.num_encoder_layers=1", "--gin.EncoderDecoder.num_decoder_layers=1",
        "--gin.DecoderOnly.num_layers=1",
    )  # fmt: skip
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own
        loop.train(built(module, *small), said.append)
    record = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = record[-1]
    assert (last["step"], last["epoch"], last["stage"]) == (40, 40, "seq2seq")
    assert last["validation/seq2seq"] < record[0]["train/seq2seq"] / 2
    assert any(line.startswith("data ") and "turned_pairs: 5 documents" in line for line in said)
    assert any("true: " in line and "model: " in line for line in said)
    assert any("inputs   near the" in line for line in said), "without the padding in front"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"pairs": None},
            r"^The objective 'seq2seq' reads pairs of inputs and targets, and the data's rows are text: ",
        ),
        ({"pairs": {"inputs": 9, "targets": 11}}, r"^The data's pairs have lengths .* and TASK_FEATURE_LENGTHS "),
    ],
)
def test_pairs_and_what_reads_them_go_together(module, changes, words):
    made = built(module)
    given = {name: getattr(made, name) for name in ("name", "networks", "curriculum", "tokens", "optimizer", "lengths")}
    with pytest.raises(UserError, match=words):
        Recipe(**given, dataset=Dataset(made.dataset.task, **changes), train_steps=3, batch_size=2)
    with pytest.raises(UserError, match=r"^The objective 'causal' reads text, and the data's rows are pairs of inputs"):
        Recipe(**given, dataset=made.dataset, train_steps=3, batch_size=2, validation=(Causal(TOKENS),))
    with pytest.raises(UserError, match=r"Seq2Seq\.lengths are .* and TASK_FEATURE_LENGTHS "):
        Seq2Seq(TOKENS, LENGTHS).block_length({"inputs": 5, "targets": 3})
    blocks = Blocks("2 pairs", {"pairs": made.declared[0]})
    with pytest.raises(UserError, match=r"^Blocks of epochs count text, and the data's rows are pairs: "):
        Recipe(**given | {"curriculum": blocks}, dataset=made.dataset, train_steps=3, batch_size=2)
    with pytest.raises(UserError, match=r"^Scoring reads rows of text, and the rows of this recipe's data are pairs "):
        prepare(made, Scoring(), print)
