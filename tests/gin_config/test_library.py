"""The gin files of data and optimizers, over the same recipe: each builds what it says, and its macros reach it."""

import pytest
from support.places import GIN

from mixlm.data.dataset import Dataset
from mixlm.data.seqio_task import SeqioTask
from mixlm.data.sources.arrow import Arrow
from mixlm.data.sources.babylm import BabyLM
from mixlm.data.sources.hub import HubDataset
from mixlm.data.sources.jsonl import JsonLines
from mixlm.data.sources.made import MadeLanguage, MadePairs, MadePairsText
from mixlm.data.sources.parquet import Parquet
from mixlm.data.sources.sotu import SotU
from mixlm.data.sources.text import TextFiles
from mixlm.data.sources.tfds import Tfds
from mixlm.data.sources.tfrecord import TFRecords
from mixlm.data.vocabulary import SentencePieceFile, TrainedSentencePiece
from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.lamb import LAMB
from mixlm.optim.muon import Muon
from mixlm.recipe import Recipe
from mixlm.schedules import WSD, Constant, Cosine, CosineWithCooldown, RsqrtDecay
from mixlm.tokens import TokenIds


def built(*arguments: str) -> Recipe:
    return configured(
        parse_flags(["--gin_file=spactor.gin", *arguments, "--gin.TRAIN_STEPS=1000", "--gin.TAU=9"], ""), Recipe
    )


OPTIM = {
    "adafactor_constant": (Adafactor(), Constant(1e-3), None),
    "adafactor_wsd": (Adafactor(), WSD(1e-2, 1000), 1.0),
    "adamw_cosine": (AdamW(), Cosine(1e-3, 1000, 100, 0.1), 1.0),
    "adamw_wsd": (AdamW(), WSD(1e-3, 1000), 1.0),
    "lamb_cosine": (
        LAMB(),
        CosineWithCooldown(1e-2, 1000, final_fraction=0.1, warmup_fraction=0.016, cooldown_fraction=0.016),
        2.0,
    ),
    "muon_wsd": (Muon(), WSD(7e-3, 1000), None),
    "t5": (Adafactor(), RsqrtDecay(1.0, 10_000), None),
}


def before(folder: str, name: str) -> list[str]:
    """All other files of a folder: what an earlier file binds must not be left in a later one's way."""
    others = sorted(path.stem for path in (GIN / folder).glob("*.gin") if path.stem != name)
    return [f"--gin_file={folder}/{other}.gin" for other in others]


@pytest.mark.parametrize("name", sorted(path.stem for path in (GIN / "optim").glob("*.gin")))
def test_an_optimizer_is_the_one_that_its_file_names(name):
    optimizer = built(f"--gin_file=optim/{name}.gin").optimizer
    after = built(*before("optim", name), f"--gin_file=optim/{name}.gin").optimizer
    assert after == optimizer
    rule, schedule, clip_norm = OPTIM[name]
    assert (optimizer.rule, optimizer.learning_rate, optimizer.clip_norm) == (rule, schedule, clip_norm)


def test_macros_reach_the_optimizer():
    lamb = built("--gin_file=optim/lamb_cosine.gin", "--gin.COOLDOWN_FRACTION=0", "--gin.WEIGHT_DECAY=0.2").optimizer
    assert lamb.rule == LAMB(weight_decay=0.2)
    assert lamb.learning_rate == CosineWithCooldown(1e-2, 1000, final_fraction=0.1, warmup_fraction=0.016)
    muon = built("--gin_file=optim/muon_wsd.gin", "--gin.WEIGHT_DECAY=0", "--gin.Muon.ns_dtype=bfloat16").optimizer
    assert muon.rule == Muon(weight_decay=0, ns_dtype="bfloat16")


TRAINED = TokenIds(1024, mask=4, bos=3)
T5 = TokenIds(32100, mask=32000)
MADE = TokenIds(384, mask=4, bos=3)
DATA = {
    "made": (MadeLanguage(), TrainedSentencePiece(384), MADE),
    "sotu": (SotU(), TrainedSentencePiece(1024), TRAINED),
    "text": (TextFiles("here"), TrainedSentencePiece(1024), TRAINED),
    "jsonl": (JsonLines("here"), TrainedSentencePiece(1024), TRAINED),
    "tfrecord": (TFRecords("here"), TrainedSentencePiece(1024), TRAINED),
    "parquet": (Parquet("here"), TrainedSentencePiece(1024), TRAINED),
    "arrow": (Arrow("here"), TrainedSentencePiece(1024), TRAINED),
    "babylm": (BabyLM("here"), TrainedSentencePiece(1024), TRAINED),
    "hub": (HubDataset("here"), TrainedSentencePiece(1024), TRAINED),
    "c4": (Tfds("c4/en:3.0.1"), SentencePieceFile("t5.model", mask=32000), T5),
    "wikipedia": (
        Tfds("wikipedia/20230601.en:1.0.0", "text", "train[:99%]", "train[99%:]"),
        SentencePieceFile("t5.model", mask=32000),
        T5,
    ),
    "vocabulary_file": (SotU(), SentencePieceFile("t5.model", mask=32000), T5),
}
OTHERS = {"seqio_task", "seqio_mixture", "mixture", "made_pairs", "translation_pairs"}
GIVEN = {name: ["--gin.TEXT=here"] for name in ("text", "jsonl", "tfrecord", "parquet", "arrow", "babylm")}
GIVEN["hub"] = ["--gin.HUB_NAME=here"]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    "name",
    sorted({path.stem for path in (GIN / "data").glob("*.gin")} - {*OTHERS, "vocabulary"}),
)
def test_data_is_what_its_file_names(name, bos):
    source, vocabulary, tokens = DATA[name]
    model = ["--gin.VOCAB_MODEL=t5.model"] if isinstance(vocabulary, SentencePieceFile) else []
    earlier = [] if name == "vocabulary_file" else before("data", name)
    arguments = (*earlier, f"--gin_file=data/{name}.gin", *GIVEN.get(name, []), *model, f"--gin.DOCUMENT_BOS={bos}")
    if bos and tokens == T5:
        with pytest.raises(UserError, match=r"tokens\.bos is the padding"):
            built(*arguments)
        return
    recipe = built(*arguments)
    task = recipe.dataset.task
    assert (task.source, task.vocabulary, task.add_bos, recipe.tokens) == (source, vocabulary, bos, tokens)
    sizes = {module.vocab_size for module in recipe.networks.values() if hasattr(module, "vocab_size")}
    assert sizes == {32128 if tokens == T5 else tokens.vocab_size}


def test_made_pairs_are_three_parts_of_one_vocabulary():
    pairs = ("--gin_file=objectives/seq2seq.gin", "--gin_file=data/made_pairs.gin", "--gin.MADE_PAIRS=50")
    lengths = '--gin.TASK_FEATURE_LENGTHS={"inputs": 28, "targets": 12}'
    recipe = configured(parse_flags(["--gin_file=spactor.gin", *pairs, lengths], ""), Recipe)
    tasks = {task.name: task for task in (part.task for part in recipe.dataset.parts)}
    assert {name: task.source for name, task in tasks.items()} == {
        name: MadePairs(name, 50) for name in ("continuation", "question", "inflection")
    }
    assert {(task.text, task.vocabulary) for task in tasks.values()} == {(MadePairsText(50), TrainedSentencePiece(384))}
    assert recipe.tokens == MADE and recipe.dataset.pairs == {"inputs": 28, "targets": 12}


@pytest.mark.parametrize("bos", [False, True])
def test_a_registered_task_is_the_one_that_is_named(bos):
    given = (
        "--gin.TASK_MODULE=a.b", "--gin.MIXTURE_OR_TASK_NAME=c", "--gin.TRAIN_SPLIT=d", "--gin.VALIDATION_SPLIT=e",
        "--gin.SENTINELS=50", "--gin.TOKEN_IDS=500", "--gin.VOCAB_SIZE=512", "--gin.MASK_ID=4", "--gin.BOS_ID=3",
    )  # fmt: skip
    recipe = built("--gin_file=data/seqio_task.gin", *given, f"--gin.DOCUMENT_BOS={bos}", "--gin.UNIQUE_TOKENS=9")
    assert recipe.dataset == Dataset(SeqioTask("c", "a.b", "d", "e", 50, 4, 3, bos), 9)
    assert recipe.tokens == TokenIds(500, mask=4, bos=3, sentinels=50)
    recipe = built(*before("data", "seqio_task"), "--gin_file=data/seqio_task.gin")
    assert recipe.tokens == T5 and recipe.dataset == Dataset(SeqioTask("", "", mask=32000))


def test_macros_reach_the_data():
    c4 = built(
        "--gin_file=data/c4.gin", "--gin.TFDS_NAME=c4/en:2.0.0", "--gin.TFDS_DATA_DIR=here", "--gin.VOCAB_MODEL=v"
    )
    assert c4.dataset.task.source.data_dir == "here" and c4.dataset.task.source.name == "c4/en:2.0.0"
    lines = built("--gin_file=data/jsonl.gin", "--gin.TEXT=a", "--gin.TEXT_FEATURE=b", "--gin.VALIDATION_FRACTION=0.5")
    assert lines.dataset.task.source == JsonLines("a", "b", 0.5)
    own = ("--gin.TOKEN_IDS=16000", "--gin.VOCAB_SIZE=16384", "--gin.SENTINELS=50", "--gin.MASK_ID=4", "--gin.BOS_ID=3")
    other = built("--gin_file=data/jsonl.gin", "--gin_file=data/vocabulary_file.gin", "--gin.VOCAB_MODEL=v", *own)
    assert other.dataset.task.vocabulary == SentencePieceFile("v", sentinels=50, mask=4, bos=3)
    assert other.tokens == TokenIds(16000, mask=4, bos=3, sentinels=50)
