"""A run of gpt_bert.gin from before its network was GPT-BERT's is read as the LTG-BERT that it is."""

import jax
import pytest
from flax.core import meta

import mixlm
from mixlm.checkpoints.compatibility import check_same_arrays
from mixlm.checkpoints.load import check_run
from mixlm.checkpoints.run_dir import RunDir
from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.models.gpt_bert import GPTBert
from mixlm.models.ltg_bert import LTGBert
from mixlm.recipe import Recipe

# How the recipe named its network up to 0.5.0.
BEFORE = ("gin_file=models/ltg_bert_tiny.gin", 'gin.NETWORKS={"model": @ltg_bert.LTGBert()}')
TOY = (
    *("TRAIN_STEPS=2", "VOCAB_SIZE=112", "TokenIds.sentinels=20", "TrainedSentencePiece.sentinels=20", "EMB_DIM=16"),
    *("BATCH_SIZE=8", "EVAL_BATCHES=1", "LOG_PERIOD=1", "VALIDATION=()", 'TASK_FEATURE_LENGTHS={"targets":16}'),
)
LAYERS = ("num_heads=2", "head_dim=8", "mlp_dim=24", "num_layers=1", "num_buckets=4")


def built(*arguments):
    return configured(parse_flags([f"--{each}" for each in ("gin_file=gpt_bert.gin", *arguments)], ""), Recipe)


def shapes(recipe):
    network = recipe.networks["model"]
    return {"params": meta.unbox(jax.eval_shape(network.init, jax.random.key(0), *network.inputs())["params"])}


def test_its_own_network_is_read_and_another_is_refused_in_one_sentence(tmp_path):
    before, now = (built(f"gin.MODEL_DIR={tmp_path / 'old'}", *more) for more in (BEFORE, ()))
    assert isinstance(now.networks["model"], GPTBert) and not isinstance(before.networks["model"], GPTBert)
    folder = RunDir(before.folder)
    folder.acquire(before.identity(), before.config)
    folder.release()
    # By its folder, as mixlm.evaluate and mixlm.decode take it.
    assert mixlm.Run(before.folder).recipe.networks == before.networks
    with pytest.raises(UserError, match=rf"a run with other networks: give .* --gin_file={folder.config} alone.$"):
        check_run(now)
    with pytest.raises(UserError, match=r"^.* holds another run, with networks ") as error:
        folder.check(now.identity())
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"_average/weights, which this run needs; it is another network's.$"):
        check_same_arrays(shapes(now), shapes(before), before.folder, whole=False)


@pytest.mark.slow
def test_it_is_scored_and_decoded_and_no_warm_start_for_gpt_bert(corpus, tmp_path):
    def toy(name, kind, *more):
        sizes = (f"gin.{kind}.{layer}" for layer in LAYERS)
        values = (f"gin.{value}" for value in TOY)
        data = ("gin_file=data/text.gin", f"gin.TEXT={corpus}", f"gin.MODEL_DIR={tmp_path / name}")
        return built(*more, *data, *values, *sizes)

    mixlm.train(toy("old", "LTGBert", *BEFORE), lambda _: None)
    assert isinstance(mixlm.Run(tmp_path / "old").recipe.networks["model"], LTGBert)
    assert mixlm.evaluate(tmp_path / "old", modes="causal", rows=4, say=lambda _: None).figures["causal"].tokens > 0
    assert len(mixlm.decode(tmp_path / "old", ["The farmer"], max_tokens=2)) == 1
    warm = toy("new", "GPTBert", f"gin.INIT_FROM={tmp_path / 'old'}")
    with pytest.raises(UserError, match=r"_average/weights, which this run needs; it is another network's.$"):
        mixlm.train(warm, lambda _: None)
