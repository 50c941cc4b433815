"""Every recipe, killed and started again, is to the bit the run that nothing interrupted."""

import shutil
from pathlib import Path

import jax
import pytest
from support.places import GIN
from support.runs import DEVICES, assert_same, lines

from mixlm.checkpoints.reader import reading
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.recipe import Recipe
from mixlm.training import run as loop

RECIPES = sorted(path.stem for path in GIN.glob("*.gin") if path.stem not in ("base", "evaluate", "study"))
STEPS, SWITCH, SAVED = 8, 5, 4
# The smallest networks that have every part; an epoch ends after the checkpoint and before the last step.
TOY = f"""VOCAB_SIZE=112 TokenIds.sentinels=20 TrainedSentencePiece.sentinels=20 UNIQUE_TOKENS=6600 TRAIN_STEPS={STEPS}
EMB_DIM=16 LOG_PERIOD=1 EVAL_PERIOD=100 EVAL_BATCHES=1 CHECKPOINT_PERIOD={SAVED} VALIDATION=()"""
DECODER = 'BATCH_SIZE=64 TASK_FEATURE_LENGTHS={"targets":16}'
HEADS = "num_heads=2 head_dim=8 mlp_dim=24"


def network(name: str, *layers: str) -> str:
    return " ".join(f"{name}.{value}" for value in (*HEADS.split(), *layers))


LLAMA = network("Llama", "num_layers=1")
LTG_BERT, GPT_BERT = (network(n, "num_layers=1", "num_buckets=4", "dropout_rate=0.1") for n in ("LTGBert", "GPTBert"))
ONE_LAYER = network("DecoderOnly", "num_layers=1", "dropout_rate=0.1")
T5 = network("EncoderDecoder", "num_encoder_layers=1", "num_decoder_layers=1")
BLOCKS = "SCHEDULE=5_clm,3_mlm"
SETTINGS = {
    "spactor": f'{T5} {ONE_LAYER} TAU={SWITCH} BATCH_SIZE=12 TASK_FEATURE_LENGTHS={{"inputs":64,"targets":14}}',
    "ar2diff": f"{ONE_LAYER} TAU={SWITCH} {DECODER}",
    "antlm": f"{LLAMA} {BLOCKS} WARMUP_STEPS=1 {DECODER}",
    "antlm_ltg_bert": f"{LTG_BERT} {BLOCKS} {DECODER}",
    "dual": f"{LLAMA} {DECODER}",
    "gpt_bert": f"{GPT_BERT} {DECODER}",
    "mile": f"{LLAMA} WARMUP_STEPS=1 {DECODER}",
}
TWO_STAGES = {"spactor", "ar2diff", "antlm", "antlm_ltg_bert"}


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Runs on one device, which compiles sooner, and without the report at their end, which other tests read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: DEVICES[:1])
        patch.setattr(loop, "finish", lambda *_: None)
        yield


def toy(name: str, corpus: Path, folder: Path) -> Recipe:
    values = [value.replace("_", " ") if "SCHEDULE" in value else value for value in f"{TOY} {SETTINGS[name]}".split()]
    flags = [f"--gin_file={name}.gin", "--gin_file=data/text.gin", *(f"--gin.{value}" for value in values)]
    return configured(parse_flags([*flags, f"--gin.TEXT={corpus}", f"--gin.MODEL_DIR={folder}"], ""), Recipe)


QUICK = ("mile",)  # the switch of stages, killed and resumed, is in test_run


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in RECIPES])
def test_a_recipe_killed_and_started_again_is_the_uninterrupted_run(name, corpus, tmp_path):
    """Past the checkpoint come the end of an epoch and, where there is one, the switch of objectives."""
    whole, killed = toy(name, corpus, tmp_path / "whole"), toy(name, corpus, tmp_path / "killed")
    loop.train(whole, lambda _: None)
    record = lines(whole)
    assert [line["step"] for line in record] == list(range(1, STEPS + 1))
    assert record[SAVED - 1]["epoch"] < 1 < record[-1]["epoch"]
    stages = [line["stage"] for line in record]
    assert stages[:SWITCH] == stages[:1] * SWITCH and (stages[SWITCH] != stages[0]) == (name in TWO_STAGES)

    # What a kill leaves in the middle of the line of a step past the switch: lines that have no checkpoint yet.
    shutil.copytree(whole.folder, killed.folder)
    shutil.rmtree(killed.folder / "checkpoints" / str(STEPS))
    written = (killed.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (killed.folder / "metrics.jsonl").write_bytes(b"".join(written[: SWITCH + 1]) + written[SWITCH + 1][:20])
    said = []
    loop.train(killed, said.append)
    assert f"resuming after step {SAVED}" in said
    assert lines(killed) == record
    assert_same(saved_state(killed), saved_state(whole))


def saved_state(made: Recipe):
    """Every array of the last checkpoint by its name."""
    with reading(made.folder / "checkpoints" / str(STEPS)) as (metadata, restore):
        here = jax.sharding.SingleDeviceSharding(DEVICES[0])
        named = jax.tree_util.tree_flatten_with_path(metadata.tree)[0]
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here) for _, leaf in named]
        tree = jax.tree.unflatten(jax.tree.structure(metadata.tree), shapes)
        return restore(tree)


def test_every_recipe_has_its_toy():
    assert sorted(SETTINGS) == RECIPES
