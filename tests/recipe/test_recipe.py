"""A recipe refuses what cannot be trained, and says in text which run it is."""

import os
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from support import places

from mixlm.data.dataset import Dataset
from mixlm.data.judged import TaskMetrics
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import UserError
from mixlm.models.heads import TokenHead
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.objectives.causal import Causal
from mixlm.objectives.curriculum import Blocks, Curriculum, Stage
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.objectives.mixing import PerExample
from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.recipe import Recipe
from mixlm.schedules import WSD, Constant, Linear, RsqrtDecay
from mixlm.tokens import TokenIds

TOKENS = TokenIds(vocab_size=64, mask=3, sentinels=8)
SPANS = SpanCorruption(TOKENS)
SIZES = {"vocab_size": 64, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}
NETWORKS = {
    "model": EncoderDecoder(**SIZES, num_encoder_layers=1, num_decoder_layers=1),
    "generator": DecoderOnly(**SIZES, num_layers=1),
    "rtd_head": TokenHead(16),
}


def dataset(path: str = "no_such_file.txt", unique_tokens: int | None = None) -> Dataset:
    task = TextTask("tiny", TextFiles(path), TrainedSentencePiece(vocab_size=64, sentinels=8))
    return Dataset(task, unique_tokens)


def recipe(**changes) -> Recipe:
    values = {
        "name": "tiny",
        "networks": NETWORKS,
        "curriculum": Curriculum((Stage(0, SpacTor(SPANS)), Stage(5, SPANS))),
        "dataset": dataset(),
        "tokens": TOKENS,
        "optimizer": Optimizer(Adafactor(), RsqrtDecay(0.2, 100)),
        "train_steps": 10,
        "batch_size": 8,
        "lengths": {"inputs": 30, "targets": 8},
        "microbatches": 2,
    }
    return Recipe(**values | changes)


def test_rows_of_text_are_as_long_as_the_lengths_ask():
    assert recipe().block_length == 32
    assert recipe(lengths={"inputs": 512, "targets": 114}, tokens=TOKENS, curriculum=big()).block_length == 568


def big() -> Curriculum:
    return Curriculum((Stage(0, SpanCorruption(TokenIds(vocab_size=640, mask=3, sentinels=100))),))


def test_a_run_lives_where_it_is_told_to_and_under_its_name_otherwise():
    assert recipe().folder == Path("runs/tiny")
    assert recipe(model_dir="elsewhere/x").folder == Path("elsewhere/x")


@pytest.mark.parametrize(
    "name",
    [
        "train_steps",
        "batch_size",
        "microbatches",
        "log_period",
        "eval_period",
        "eval_batches",
        "checkpoint_period",
        "keep",
    ],
)
@pytest.mark.parametrize("value", [0, -3, True])
def test_counts_are_positive(name, value):
    with pytest.raises(UserError, match=rf"^{name.upper()} must be a whole number above 0, got {value}\.$"):
        recipe(**{name: value})


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_fits_its_type(seed):
    with pytest.raises(UserError, match=rf"SEED must be .* got {seed}"):
        recipe(seed=seed)


def test_lengths_are_positive():
    with pytest.raises(UserError, match=r"TASK_FEATURE_LENGTHS\['targets'\] must be a whole number above 0, got 0"):
        recipe(lengths={"inputs": 30, "targets": 0})


def test_lengths_that_the_rates_cannot_make_name_the_nearest():
    with pytest.raises(UserError, match=r"cannot make 30 inputs with 20 targets; the nearest lengths are 30 and 8\."):
        recipe(lengths={"inputs": 30, "targets": 20})


def test_microbatches_divide_the_batch():
    with pytest.raises(UserError, match="3 MICROBATCHES do not divide a BATCH_SIZE of 8 rows"):
        recipe(microbatches=3)


def test_tau_lies_within_the_run():
    with pytest.raises(UserError, match=r"starts at step 5 .* past the last of 4 steps"):
        recipe(train_steps=4)


def test_all_stages_read_rows_of_one_length():
    with pytest.raises(UserError, match=r"different lengths of text: .*'span_corruption': 32.*'causal': 8"):
        recipe(curriculum=Curriculum((Stage(0, SPANS), Stage(5, Causal(TOKENS)))))


def test_a_network_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"'spactor' trains a network 'generater', .* Did you mean 'generator'\?"):
        recipe(curriculum=Curriculum((Stage(0, SpacTor(SPANS, generator="generater")),)))
    with pytest.raises(UserError, match=r"a network 'model', .*\['net'\]\.$"):
        recipe(networks={"net": NETWORKS["model"]}, curriculum=Curriculum((Stage(0, SPANS),)))


@pytest.mark.parametrize("name", ["model", "generator"])
def test_a_network_knows_the_whole_vocabulary(name):
    small = NETWORKS[name].clone(vocab_size=63)
    with pytest.raises(UserError, match=rf"network '{name}' has 63 tokens, and the vocabulary 64"):
        recipe(networks=NETWORKS | {name: small})
    recipe(networks=NETWORKS | {name: NETWORKS[name].clone(vocab_size=128)})


DIFFERENT = {
    "name": "other",
    "networks": NETWORKS | {"generator": NETWORKS["generator"].clone(mlp_dim=48)},
    "curriculum": Curriculum((Stage(0, SpacTor(SPANS)), Stage(6, SPANS))),
    "dataset": dataset(unique_tokens=1000),
    "tokens": replace(TOKENS, mask=4),
    "optimizer": Optimizer(AdamW(), Constant(1e-3)),
    "train_steps": 11,
    "batch_size": 16,
    "lengths": {"inputs": 31, "targets": 8},
    "microbatches": 4,
    "seed": 1,
    "partitioning": Partitioning(data=8),
    "model_dir": "elsewhere",
    "log_period": 3,
    "eval_period": 3,
    "eval_batches": 3,
    "checkpoint_period": 3,
    "keep": 3,
    "best_metric": "causal",
    "keep_best": 2,
    "keep_period": 200,
    "keep_at_words": (1e6,),
    "init_from": "runs/other",
    "init_optimizer": True,
    "validation": (SPANS,),
    "frequency_bands": (0.5, 0.5),
    "curves": ("flops",),
    "trackers": ("jsonl",),
    "best_is": "highest",
    "patience": 2,
    "metrics": TaskMetrics(examples=1),
}


@pytest.mark.parametrize("field", [field.name for field in fields(Recipe) if field.init and field.name != "epochs"])
def test_a_run_is_another_one_unless_only_watching_or_placing_or_its_length_differs(field):
    free = {
        "train_steps",
        "model_dir",
        "partitioning",
        "keep",
        "best_metric",
        "keep_best",
        "keep_period",
        "keep_at_words",
    }
    free |= {
        "log_period",
        "eval_period",
        "eval_batches",
        "checkpoint_period",
        "validation",
        "frequency_bands",
        "curves",
        "trackers",
        "best_is",
        "patience",
        "metrics",
    }
    assert {each.name for each in fields(Recipe) if each.metadata.get("identity") is False} == free | {
        "config",
        "scaled",
    }
    needed = {"best_metric": "span_corruption"} if field == "patience" else {}
    mine, other = recipe(**needed).identity(), recipe(**needed, **{field: DIFFERENT[field]}).identity()
    assert {name for name in {**mine, **other} if mine.get(name) != other.get(name)} == {field} - free
    # What runs of an earlier version did not say, a run of today says only where it is used.
    added = {"init_optimizer"}
    assert set(mine) == set(DIFFERENT) - free - added and set(other) == set(mine) | (added & {field})


def test_a_run_that_ends_with_its_data_is_one_by_its_epochs_and_others_know_nothing_of_them():
    three, four = (recipe(train_steps=None, epochs=epochs).identity() for epochs in (3, 4))
    assert {name for name in four if three[name] != four[name]} == {"epochs"} == four.keys() - recipe().identity()


def test_deep_differences_are_seen():
    changed = {
        "networks": NETWORKS | {"model": NETWORKS["model"].clone(mlp_activations=("relu",))},
        "curriculum": Curriculum((Stage(0, SpacTor(SPANS, lambda1=9.0)), Stage(5, SPANS))),
        "optimizer": Optimizer(Adafactor(), RsqrtDecay(0.2, 101)),
    }
    for name, value in changed.items():
        assert recipe(**{name: value}).identity()[name] != recipe().identity()[name]


@pytest.mark.parametrize("path", ["notes #1.txt", "a#b.txt", "C# and more.txt"])
def test_what_follows_a_hash_sign_still_counts(path):
    mine, other = (recipe(dataset=dataset(path, unique)).identity() for unique in (1000, 2000))
    assert mine != other


def test_a_setting_that_older_runs_did_not_have_is_named_where_it_differs():
    """The record of a run from before says nothing of it, and agrees with its default."""
    plain, later = (
        recipe(optimizer=Optimizer(AdamW(also_decayed=names), Constant(0.1))).identity() for names in ((), ("norm",))
    )
    assert "also_decayed" not in repr(plain)
    assert dict(later.items() - plain.items()) == {"AdamW.also_decayed": "('norm',)"}


def test_an_identity_is_one_line_of_text_a_field_without_addresses():
    for name, text in recipe().identity().items():
        assert isinstance(text, str) and "\n" not in text and " at 0x" not in text, name


def test_an_identity_is_the_same_in_every_process():
    code = "import json, test_recipe; print(json.dumps(test_recipe.recipe().identity()))"
    path = os.pathsep.join(map(str, (places.ROOT, places.TESTS, places.TESTS / "recipe")))
    printed = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        printed.add(run.stdout)
    assert len(printed) == 1
    assert str(recipe().identity()["seed"]) in printed.pop()


def in_epochs(**changes) -> Recipe:
    blocks = Blocks("1 spactor, 2.5 spans", {"spactor": SpacTor(SPANS), "spans": SPANS})
    return recipe(**{"curriculum": blocks, "train_steps": None} | changes)


def test_a_run_of_epochs_is_as_many_steps_as_their_rows_take():
    made = recipe(train_steps=None, epochs=3, optimizer=Optimizer(AdamW(), WSD(0.1, None)))
    settled = made.settled(1000, rows=94)
    assert settled.train_steps == 12 and settled.epochs == 3  # 94 rows in batches of 8
    assert settled.optimizer.learning_rate == WSD(0.1, 12)
    assert settled.settled(None) == settled
    with pytest.raises(UserError, match=r"starts at step 5 .* past the last of 3 steps"):
        made.settled(1000, rows=24)
    with pytest.raises(UserError, match="is not here: give TRAIN_STEPS"):
        made.settled(None)


def test_blocks_of_epochs_share_the_epochs_of_the_data_in_proportion():
    settled = in_epochs(epochs=14).settled(2048, rows=14 * 64)
    assert settled.train_steps == 112 and [stage.start for stage in settled.stages.stages] == [0, 32]


def test_a_schedule_within_an_objective_goes_over_the_run_as_well():
    masked = MaskedLM(TOKENS, mask_rate=Linear(0.3, 0.15, None))
    mix = PerExample((Causal(TOKENS), masked), (Linear(1.0, 0.0, 5),))
    made = recipe(
        train_steps=None, epochs=1, curriculum=Curriculum((Stage(0, mix),)), validation=(masked,), networks=NETWORKS
    ).settled(1000, rows=80)
    over = replace(masked, mask_rate=Linear(0.3, 0.15, 10))
    assert made.stages.stages[0].objective == replace(mix, objectives=(Causal(TOKENS), over))
    assert made.validation == (over,)


def test_the_length_of_a_run_is_given_once():
    with pytest.raises(UserError, match=r"TRAIN_STEPS = 10 and EPOCHS = 3 both .* --gin\.TRAIN_STEPS=None"):
        recipe(epochs=3)
    with pytest.raises(UserError, match="EPOCHS must be a whole number above 0, got 0"):
        recipe(epochs=0, train_steps=None)
    with pytest.raises(UserError, match="TRAIN_STEPS must be a whole number above 0, got None"):
        recipe(train_steps=None)


def test_epochs_become_steps_once_the_text_is_counted():
    # 8 rows of 32 tokens are a step, so 2,048 tokens are 8 steps.
    settled = in_epochs(optimizer=Optimizer(AdamW(), WSD(0.1, None))).settled(2048)
    assert settled.train_steps == 28 and [stage.start for stage in settled.stages.stages] == [0, 8]
    assert settled.optimizer.learning_rate == WSD(0.1, 28)
    assert settled.settled(None) == settled


def test_a_given_number_of_steps_is_shared_by_the_epochs_in_proportion():
    settled = in_epochs(train_steps=70).settled(2048)
    assert settled.train_steps == 70 and [stage.start for stage in settled.stages.stages] == [0, 20]


def test_an_epoch_of_no_text_has_no_length():
    with pytest.raises(
        UserError, match="The length of an epoch depends on the text, which is not here: give TRAIN_STEPS"
    ):
        in_epochs().settled(None)
    with pytest.raises(UserError, match="TRAIN_STEPS must be a whole number above 0, got None"):
        recipe(train_steps=None)


def test_validation_reports_what_is_trained_unless_told_otherwise():
    assert recipe().validated == (SpacTor(SPANS), SPANS)
    assert recipe(validation=(SPANS,)).validated == (SPANS,)
    with pytest.raises(UserError, match=r"rows of different lengths of text: .*'causal': 8"):
        recipe(validation=(SPANS, Causal(TOKENS)))
    with pytest.raises(UserError, match=r"'causal' trains a network 'modle', .* Did you mean 'model'\?"):
        recipe(
            lengths={"inputs": 30, "targets": 8},
            validation=(SPANS, Odd(TOKENS, network="modle")),
        )


@dataclass(frozen=True)
class Odd(Causal):
    """Causal over rows as long as span corruption's."""

    def block_length(self, lengths):
        return 32


def test_curves_are_drawn_against_what_grows():
    assert recipe(curves=("flops", "epoch")).curves == ("flops", "epoch")
    with pytest.raises(UserError, match=r"names 'flop', and curves are drawn against step, .* Did you mean 'flops'\?"):
        recipe(curves=("step", "flop"))
    with pytest.raises(UserError, match="CURVES names nothing to draw against"):
        recipe(curves=())


def test_frequency_bands_share_out_the_whole_text():
    with pytest.raises(UserError, match=r"FREQUENCY_BANDS = \(0.8, 0.1\) must be positive shares with a sum of 1"):
        recipe(frequency_bands=(0.8, 0.1))


def test_the_gin_text_of_a_recipe_is_no_part_of_its_value():
    plain, built = recipe(), recipe().with_config("TAU = 4\n")
    assert built.config == "TAU = 4\n" and plain.config == ""
    assert built == plain and repr(built) == repr(plain) and built.identity() == plain.identity()
    assert built.settled(1000).config == built.config
