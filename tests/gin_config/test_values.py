"""Every kind of value of a macro, tried with values that it cannot have: one sentence that names the macro."""

from dataclasses import dataclass

import pytest

from mixlm.data.sources.base import Source
from mixlm.data.sources.sotu import SotU
from mixlm.data.tasks import Task, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece, VocabularySpec
from mixlm.decoding.strategies import STRATEGIES, Strategy
from mixlm.errors import UserError, check_kind, may_be
from mixlm.evaluation.base import Mode, NamedMode
from mixlm.evaluation.likelihood import CausalLikelihood
from mixlm.evaluation.modes import select_modes
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.losses.token_losses import CrossEntropy, MiLe, TokenLoss
from mixlm.models.llama import Llama
from mixlm.network import CachedNetwork, EncoderDecoderNetwork, Network
from mixlm.objectives.base import BatchObjective, Objective, RowObjective
from mixlm.objectives.causal import Causal
from mixlm.objectives.mixing import PerExample
from mixlm.optim.adamw import AdamW
from mixlm.optim.base import Rule
from mixlm.optim.optimizer import Optimizer
from mixlm.recipe import Recipe
from mixlm.schedules import WSD, Constant, Schedule
from mixlm.tokens import TokenIds

# What each class of the package is of, among the protocols of the fields that gin fills.
PROTOCOLS = (Rule, Schedule, TokenLoss, Objective, Source, Task, VocabularySpec, Strategy, Mode, Network)
KINDS = {
    AdamW: {Rule},
    WSD: {Schedule},
    MiLe: {TokenLoss},
    Causal: {Objective},
    PerExample: {Objective},
    SotU: {Source},
    TextTask: {Task},
    TrainedSentencePiece: {VocabularySpec},
    CausalLikelihood: {Mode},
    Llama: {Network},
    **{strategy: {Strategy} for strategy in STRATEGIES.values()},
    Recipe: set(),
    tuple: set(),
    int: set(),
}


@pytest.mark.parametrize("made", KINDS, ids=lambda made: made.__name__)
def test_a_class_is_of_its_own_kind_alone(made):
    assert {kind for kind in PROTOCOLS if may_be(made, kind)} == KINDS[made]


def test_a_wider_protocol_asks_for_more():
    assert may_be(Llama, CachedNetwork) and not may_be(Llama, EncoderDecoderNetwork)
    assert may_be(Causal, RowObjective) and not may_be(Causal, BatchObjective)
    assert not may_be(CausalLikelihood, NamedMode)


@dataclass(frozen=True)
class Named:
    """A mode from outside, with a name set in one of the ways that there are."""

    kind: str = "likelihood"

    @property
    def name(self):
        return "mine"

    def copies(self, lengths):
        return lengths

    def scored(self, lengths, prefixes):
        return lengths

    def __call__(self, net, rows):
        return rows


class Plain:
    """One whose attributes are set as it is made."""

    def __init__(self):
        self.kind, self.name = "bound", "mine"

    copies, scored, __call__ = Named.copies, Named.scored, Named.__call__


def test_a_class_without_annotations_is_judged_by_its_methods():
    assert may_be(Named, NamedMode) and may_be(Plain, NamedMode)
    check_kind("EXTRA_MODES", Plain(), NamedMode)
    check_kind("Optimizer.learning_rate", lambda step: 0.1, Schedule)  # as optax writes schedules
    assert not may_be(Named, Schedule)


MODES = {"causal": CausalLikelihood(TokenIds(9, 4, sentinels=2))}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Optimizer(AdamW, Constant(1.0)), "Optimizer.rule is the class AdamW: make an instance of it"),
        (lambda: check_kind("OPTIMIZER", (AdamW(),), Rule), "OPTIMIZER must be a Rule, got a value of type tuple."),
        (lambda: Optimizer(AdamW(), CrossEntropy()), "Optimizer.learning_rate must be a Schedule, got a value of type"),
        (lambda: select_modes(MODES, ()), "MODES = () names no scoring mode: give some of causal, or None"),
        (lambda: select_modes(MODES, ","), "MODES = ',' names no scoring mode"),
        (lambda: select_modes(MODES, "filling"), "This network has no scoring mode 'filling' (MODES), only causal."),
    ],
)
def test_an_object_of_the_wrong_kind_in_python_gets_one_sentence(build, words):
    with pytest.raises(UserError, match=r"^[^\n]*[.]$") as error:
        build()
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("binding", "sentence"),
    [
        ("TRAIN_STEPS=-1", "TRAIN_STEPS = -1 must be at least 1."),
        ("WARMUP_STEPS=-3", "WARMUP_STEPS = -3 must be at least 0."),
        # No macro stands between the user and this one.
        ("Cosine.total_steps=-1", "Cosine.total_steps = -1 must be at least 1."),
    ],
)
def test_a_wrong_number_is_named_as_it_was_given(binding, sentence):
    with pytest.raises(UserError) as caught:
        configured(parse_flags(["--gin_file=mile.gin", f"--gin.{binding}"], ""), Recipe)
    assert str(caught.value) == sentence


# By kind: a macro, and values that are none of its kind or out of its range.
NUMBER = ("1e400", "-1e400", "1e300", "nan", '""', "x", "()", "(1,)", "None", "True", "@optim.AdamW()")
WHOLE = (*NUMBER, "1.5", "2**40", "1e19", "99999999999999999999999")
OBJECT = ("0", "1.5", '"x"', "()", "True", "{}", "@optim.Optimizer()")
WRONG = {
    "LEARNING_RATE": (*NUMBER, "-1"),
    "WEIGHT_DECAY": (*NUMBER, "-1"),
    "FINAL_FRACTION": (*NUMBER, "-1", "1.5"),
    "Z_LOSS": (*NUMBER, "-1"),
    "GAMMA": (*NUMBER, "-1"),
    "DROPOUT_RATE": (*NUMBER, "-1", "1.5", "1"),
    "CLIP_NORM": ("1e400", "nan", "x", "()", "True", "0", "-1"),
    "TRAIN_STEPS": (*WHOLE, "0", "-1", "4294967296"),
    "BATCH_SIZE": (*WHOLE, "0", "-1", "4294967296"),
    "MICROBATCHES": (*WHOLE, "0", "-1", "5"),
    "EVAL_BATCHES": (*WHOLE, "0", "-1", "4294967296"),
    "SEED": (*WHOLE, "-1", "4294967296"),
    "VOCAB_SIZE": (*WHOLE, "0", "-1", "4294967296"),
    "EMB_DIM": (*WHOLE, "0", "-1", "4294967296"),
    "WARMUP_STEPS": (*WHOLE, "-1", "4294967296"),
    "EPOCHS": ("1e400", "1.5", "x", "True", "0", "-1", "4"),
    "UNIQUE_TOKENS": ("1e400", "1.5", "x", "True", "0", "-1", "99999999999999999999999"),
    "LOG_PERIOD": (*WHOLE, "0", "-1"),
    "KEEP_CHECKPOINTS": (*WHOLE, "0", "-1"),
    "DATA_PARTITIONS": (*WHOLE, "0", "-2"),
    "SLICES": ("1e400", "1.5", "x", "True", "0", "-1"),
    "SHIFTED": ("0", "1.5", "x", "None", "()"),
    "DTYPE": ("0", "x", '""', "None", "()", "int32", "@optim.AdamW()"),
    "ATTENTION": ("0", "x", '""', "None", "()", "True"),
    "REMAT": ("0", "x", '""', "()", "True"),
    "TASK_FEATURE_LENGTHS": ("0", "x", "()", "None", "{}", '{"targets":None}', '{"targets":1.5}', "{1:2}"),
    "VALIDATION": ("0", "x", "None", "@causal.Causal()", "(@optim.AdamW(),)", "(@causal.Causal,)"),
    "TRACKERS": ("0", "x", "None", "()", "(1,)", "('jsonl','wandbb')"),
    "CURVES": ("0", "x", "None", "()", "(1,)"),
    "FREQUENCY_BANDS": ("0", "x", "(2,)", "(nan,)", "(1e400,)", "(-1,2)"),
    "LOGICAL_AXIS_RULES": ("0", "x", "(1,)", "None"),
    "RECIPE": ("()", "None", '""', "' '"),
    "TOKEN_LOSS": (*OBJECT, "None", "@optim.AdamW()", "@losses.MiLe", "(@losses.MiLe(),)", "@schedules.Cosine()"),
    "OPTIMIZER": (*OBJECT, "None", "@losses.MiLe()", "@optim.AdamW", "(@optim.AdamW(),)"),
    "LEARNING_RATE_SCHEDULE": (*OBJECT, "None", "@losses.MiLe()", "@schedules.Cosine", "(@schedules.Cosine(),)"),
    "NETWORKS": ("0", "x", "()", "None", "{}", "@llama.Llama()", '{"model":3}', '{"model":@optim.AdamW()}'),
    "CURRICULUM": (*OBJECT, "None", "@causal.Causal()", "@curriculum.Curriculum"),
    "DATASET": (*OBJECT, "None", "@tasks.TextTask()", "@dataset.Dataset"),
    "TOKENS": (*OBJECT, "None", "@dataset.Dataset()", "@tokens.TokenIds"),
    "OBJECTIVE": (*OBJECT, "None", "@optim.AdamW()", "@causal.Causal", "(@causal.Causal(),)"),
}


QUICK = ("LEARNING_RATE", "TOKEN_LOSS", "UNIQUE_TOKENS")  # a number, an object, what may be None


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in WRONG])
def test_a_value_of_the_wrong_kind_or_size_is_refused(name):
    accepted = []
    for value in WRONG[name]:
        try:
            configured(parse_flags(["--gin_file=mile.gin", f"--gin.{name}={value}"], ""), Recipe)
            accepted.append(value)
        except UserError as error:
            assert "\n" not in str(error) and str(error).endswith((".", "?")), (value, str(error))
    assert accepted == []
