"""Each paper's gin file builds the recipe that it says, and with its scale file the paper's own size."""

import math

import jax
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict
from support.places import GIN

from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.losses.token_losses import CrossEntropy, Focal, MiLe
from mixlm.objectives.causal import Causal
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.objectives.mixing import PerExample
from mixlm.objectives.prefix_lm import PrefixLM
from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.objectives.unrolled_diffusion import UnrolledDiffusion
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.base import decayed
from mixlm.optim.lamb import LAMB
from mixlm.optim.muon import Muon
from mixlm.recipe import Recipe

RECIPES = sorted(path.stem for path in GIN.glob("*.gin") if path.stem not in ("base", "evaluate", "study"))
MODES = ["causal", "prefix_lm", "masked_lm", "masked_diffusion"]


def built(*arguments: str) -> Recipe:
    return configured(parse_flags([f"--{argument}" for argument in arguments], ""), Recipe)


def parameters(recipe: Recipe, name: str = "model") -> int:
    module = recipe.networks[name]
    shapes = jax.eval_shape(lambda: meta.unbox(module.init(jax.random.key(0), *module.inputs())["params"]))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


STAGES = {
    "spactor": [SpacTor, SpanCorruption],
    "dual": [PerExample],
    "gpt_bert": [PerExample],
    "antlm": [Causal, MaskedLM, Causal],
    "antlm_ltg_bert": [Causal, MaskedLM, Causal],
    "ar2diff": [PrefixLM, UnrolledDiffusion],
    "mile": [Causal],
}


def test_the_table_holds_every_recipe():
    assert sorted(STAGES) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_its_papers_objectives(name):
    recipe = built(f"gin_file={name}.gin").settled(200_000)
    assert [type(stage.objective) for stage, _ in recipe.stages.spans(recipe.steps)] == STAGES[name]
    assert recipe.name == name
    lengths = [len(line.split("#")[0].strip()) > 0 for line in (GIN / f"{name}.gin").read_text().splitlines()]
    assert sum(lengths) <= 32, "a paper is one short file"


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"spactor"}))
def test_validation_reports_every_mode_of_a_decoder_in_plain_cross_entropy(name):
    recipe = built(f"gin_file={name}.gin", "gin.Z_LOSS=0.5")
    assert [mode.name for mode in recipe.validated][:4] == MODES
    assert {mode.loss for mode in recipe.validated} == {CrossEntropy()}
    shifted = {mode.shifted for mode in recipe.validated[2:]}
    assert shifted == {name in ("dual", "gpt_bert", "mile")}


def test_validation_reports_every_mode_of_an_encoder_decoder():
    recipe = built("gin_file=spactor.gin", "gin.Z_LOSS=0.5")
    assert [mode.name for mode in recipe.validated] == ["spactor", "span_corruption", "causal", "prefix_lm"]
    assert [mode.loss for mode in recipe.validated[2:]] == [CrossEntropy(), CrossEntropy()]


def test_dual():
    recipe = built("gin_file=dual.gin", "gin.ALPHA=0.9375", "gin.AR_LOSS_WEIGHT=2.0", "gin.STRATIFIED=True")
    (objective,) = recipe.settled(None).objectives
    causal, diffusion = objective.objectives
    assert (objective.shares, objective.loss_weights) == ((0.9375,), (2.0, 1.0))
    assert isinstance(causal, Causal) and isinstance(diffusion, MaskedDiffusion)
    assert diffusion.shifted and diffusion.stratified and not diffusion.score_last and diffusion.floor == 0.0
    assert causal.separate_documents and diffusion.separate_documents and recipe.dataset.task.add_bos
    assert causal.loss == diffusion.loss == CrossEntropy(1e-4)
    assert isinstance(recipe.optimizer.rule, Muon) and recipe.optimizer.clip_norm is None
    assert recipe.networks["model"].projection_head and recipe.networks["model"].zero_init
    with pytest.raises(UserError, match=r"PerExample.shares = \(1.5,\) add up to more than 1"):
        built("gin_file=dual.gin", "gin.ALPHA=1.5")


def test_gpt_bert():
    recipe = built("gin_file=gpt_bert.gin")
    (objective,) = recipe.settled(None).objectives
    causal, masked = objective.objectives
    assert isinstance(causal, Causal) and objective.shares == (1 / 16,)
    assert masked.shifted and len(masked.span_lengths) == 3 and (masked.keep, masked.random) == (0.1, 0.1)
    assert (float(masked.mask_rate(0)), float(masked.mask_rate(recipe.train_steps))) == pytest.approx((0.3, 0.15))
    rule, network = recipe.optimizer.rule, recipe.networks["model"]
    assert isinstance(rule, LAMB)
    shapes = meta.unbox(jax.eval_shape(network.init, jax.random.key(0), *network.inputs())["params"])
    # The release decays, and scales by the trust ratio, all that is named neither bias nor layer_norm.
    mask = flatten_dict(decayed(shapes, rule.undecayed, rule.also_decayed), sep="/")
    assert mask == {name: not ("bias" in name or "layer_norm" in name) for name in mask}


def test_antlm():
    recipe = built("gin_file=antlm.gin", "gin.SCHEDULE='4 clm, 16 mlm, 4 clm'", "gin.TRAIN_STEPS=240").settled(None)
    assert [(type(stage.objective), count) for stage, count in recipe.stages.spans(240)] == [
        (Causal, 40),
        (MaskedLM, 160),
        (Causal, 40),
    ]
    assert not recipe.objectives[1].shifted
    assert built("gin_file=antlm.gin", "gin.SHIFTED=True").declared[1].shifted
    assert isinstance(recipe.optimizer.rule, AdamW)
    assert isinstance(built("gin_file=antlm_ltg_bert.gin").optimizer.rule, LAMB)
    with pytest.raises(UserError, match=r"names 'mml', .* Did you mean 'mlm'\?"):
        built("gin_file=antlm.gin", "gin.SCHEDULE='4 clm, 16 mml'")


def test_ar2diff_is_a_curriculum_an_autoregressive_run_and_a_warm_start():
    both = built("gin_file=ar2diff.gin").settled(None)
    assert [type(objective) for objective in both.objectives] == [PrefixLM, UnrolledDiffusion]
    assert not both.objectives[0].bidirectional_prefix
    alone = built("gin_file=ar2diff.gin", "gin.TAU=800").settled(None)
    assert [type(objective) for objective in alone.objectives] == [PrefixLM]
    warm = built("gin_file=ar2diff.gin", "gin.TAU=0", "gin.INIT_FROM='runs/ar'", "gin.MASK_ANNEALING_STEPS=50")
    assert [type(objective) for objective in warm.settled(None).objectives] == [UnrolledDiffusion]
    opening = warm.settled(None).objectives[0].bidirectional
    assert [float(opening(step)) for step in (0, 25, 50)] == [0.0, 0.5, 1.0]
    assert warm.init_from == "runs/ar" and isinstance(warm.optimizer.rule, Adafactor)


@pytest.mark.parametrize(("loss", "kind"), [("MiLe", MiLe), ("Focal", Focal), ("CrossEntropy", CrossEntropy)])
def test_mile_has_three_losses_and_one_gamma(loss, kind):
    gamma = [] if kind is CrossEntropy else ["gin.GAMMA=0.5"]
    recipe = built("gin_file=mile.gin", f"gin.TOKEN_LOSS=@losses.{loss}()", *gamma)
    found = recipe.settled(None).objectives[0].loss
    assert type(found) is kind and getattr(found, "gamma", 0.5) == 0.5
    assert recipe.frequency_bands == (0.8, 0.15, 0.05)


# (recipe, scale file and others behind it) -> parameters as the paper or its code has them.
PAPER = {
    ("spactor", "scale/spactor"): 247_577_856,
    ("spactor", "scale/spactor_base"): 247_577_856,
    ("spactor", "scale/spactor", "models/t5_large"): 783_150_080,
    ("dual", "scale/dual"): 468.7e6,
    ("gpt_bert", "scale/gpt_bert"): 29_892_164,
    ("antlm", "scale/antlm"): 97e6,
    ("antlm_ltg_bert", "scale/antlm_ltg_bert"): 98.2e6,
    ("ar2diff", "scale/ar2diff"): 280e6,
    ("ar2diff", "scale/ar2diff", "models/decoder_1700m"): 1.7e9,
    ("mile", "scale/mile"): 468e6,
    ("mile", "scale/mile_1b"): 1.2e9,
    ("mile", "scale/mile_7b"): 6.7e9,
}


@pytest.mark.parametrize("files", PAPER, ids="+".join)
def test_a_scale_file_gives_the_papers_size(files):
    recipe = built(*(f"gin_file={file}.gin" for file in files))
    assert parameters(recipe) == pytest.approx(PAPER[files], rel=0.015)
    tokens = recipe.settled(None).steps * recipe.batch_size * recipe.block_length
    read = {"spactor": 1.163e12, "dual": 2**35, "mile": 104.9e9, "ar2diff": 1.1e6 * 128 * 1024}
    if files[0] in read:
        assert tokens == pytest.approx(read[files[0]], rel=0.001)


def test_every_scale_file_has_its_row():
    rows = {file for files in PAPER for file in files if file.startswith("scale/")}
    assert rows == {f"scale/{path.stem}" for path in (GIN / "scale").glob("*.gin")}
