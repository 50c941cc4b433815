"""`load_recipe` takes Python values and says what the command line says of a mistake."""

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import mixlm
from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.losses.token_losses import CrossEntropy, MiLe
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.objectives.causal import Causal
from mixlm.recipe import Recipe
from mixlm.schedules import Cosine
from mixlm.tokens import TokenIds


def by_flags(*arguments: str) -> Recipe:
    return configured(parse_flags(arguments, ""), Recipe)


def sentence(call, *arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_python_values_build_what_the_command_line_builds(tmp_path):
    (tmp_path / "mine.gin").write_text("BATCH_SIZE = 8\nEMB_DIM = 64\n")
    made = mixlm.load_recipe(
        "dual.gin",
        "mine.gin",
        search_paths=tmp_path,
        ALPHA=0.25,
        TRAIN_STEPS=np.int64(50),
        MODEL_DIR=tmp_path / "a",
        TASK_FEATURE_LENGTHS={"targets": 32},
        CURVES=("step", "tokens"),
        BEST_METRIC=None,
        **{"MaskedDiffusion.stratified": True, "Optimizer.clip_norm": np.float32(0.5)},
    )
    assert made == by_flags(
        "--gin_file=dual.gin",
        "--gin_file=mine.gin",
        f"--gin_search_paths={tmp_path}",
        "--gin.ALPHA=0.25",
        "--gin.TRAIN_STEPS=50",
        f"--gin.MODEL_DIR={tmp_path / 'a'}",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 32}",
        "--gin.CURVES=('step', 'tokens')",
        "--gin.BEST_METRIC=None",
        "--gin.MaskedDiffusion.stratified=True",
        "--gin.Optimizer.clip_norm=0.5",
    )


def test_text_is_the_text_flag(corpus):
    flags = ("--gin_file=dual.gin", "--text", str(corpus))
    assert mixlm.load_recipe("dual.gin", text=corpus).identity() == by_flags(*flags).identity()


def test_a_dtype_is_given_by_its_name_or_by_itself():
    made = [mixlm.load_recipe("dual.gin", DTYPE=each) for each in ("bfloat16", jnp.bfloat16)]
    assert made[0] == made[1] and made[0].networks["model"].dtype == "bfloat16"


def test_text_that_gin_would_read_as_something_else_stays_text():
    assert mixlm.load_recipe("dual.gin", RECIPE="@dual('%x') # 2026").name == "@dual('%x') # 2026"


def test_instances_are_values_and_config_gin_builds_them_again(tmp_path):
    objective = Causal(mixlm.load_recipe("mile.gin").tokens, loss=MiLe(gamma=2.0))
    schedule = Cosine(0.01, 9, 3)
    made = mixlm.load_recipe("mile.gin", OBJECTIVE=objective, LEARNING_RATE_SCHEDULE=schedule, TRAIN_STEPS=9)
    assert made.objectives == (objective,)
    assert made.optimizer.learning_rate == schedule
    config = tmp_path / "config.gin"
    config.write_text(made.config)
    assert mixlm.load_recipe(config) == made


def test_a_network_is_a_value(tmp_path):
    small = DecoderOnly(vocab_size=1024, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_layers=1)
    assert mixlm.load_recipe("dual.gin", NETWORKS={"model": small}).networks == {"model": small}


def test_an_instance_keeps_its_defaults_where_the_files_bind_its_class():
    # dual.gin has CrossEntropy.z_loss = 1e-4, which must not reach an instance that was made without it.
    made = mixlm.load_recipe("dual.gin", TOKEN_LOSS=CrossEntropy())
    assert {each.loss for each in made.objectives[0].objectives} == {CrossEntropy(z_loss=0.0)}


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("ALPHAA", 0.25, "0.25"),
        ("SEED", "three", "'three'"),
        ("ALPHA", "0.25", "'0.25'"),
        ("TASK_FEATURE_LENGTHS", {"targets": "many"}, "{'targets': 'many'}"),
        ("TAU", 3, "3"),
        ("Causal.lossy", 3, "3"),
        ("Casual.loss", 3, "3"),
        ("SpacTor.lambda1", 3.0, "3.0"),
        ("SEED", -1, "-1"),
        ("a b", 1, "1"),
    ],
)
def test_a_mistake_gets_the_sentence_of_the_command_line(name, value, flag):
    said = sentence(mixlm.load_recipe, "dual.gin", **{name: value})
    assert said == sentence(by_flags, "--gin_file=dual.gin", f"--gin.{name}={flag}")


def test_files_and_texts_that_are_not_there_get_the_same_sentence(tmp_path):
    assert sentence(mixlm.load_recipe, "daul.gin") == sentence(by_flags, "--gin_file=daul.gin")
    assert sentence(mixlm.load_recipe) == sentence(by_flags)
    assert "no file or folder" in sentence(mixlm.load_recipe, "dual.gin", text=tmp_path / "none")


@dataclass(frozen=True)
class Wrapper:
    value: object


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MODEL_DIR", 2026, "MODEL_DIR (--gin.MODEL_DIR, read by recipe.Recipe.model_dir) must be text or None"),
        ("ALPHA", float("nan"), "--gin.ALPHA: nan is not finite"),
        ("ALPHA", np.ones(3), "--gin.ALPHA: give a number, text, None, a list, tuple or dict, or a dataclass instance"),
        ("ALPHA", Wrapper(np.ones(3)), "--gin.ALPHA.value: give a number"),
        ("TOKEN_LOSS", lambda: 3, "cannot import"),
        ("LEARNING_RATE_SCHEDULE", TokenIds(112, mask=4), "must be"),
    ],
)
def test_a_value_that_fits_nowhere_is_refused_in_one_sentence(name, value, said):
    assert said in sentence(mixlm.load_recipe, "dual.gin", **{name: value})


def test_one_recipe_does_not_change_the_next():
    plain = mixlm.load_recipe("dual.gin")
    mixlm.load_recipe("spactor.gin", TAU=3, SEED=5)
    mixlm.load_recipe("dual.gin", ALPHA=0.75, **{"MaskedDiffusion.stratified": True})
    again = mixlm.load_recipe("dual.gin")
    assert again == plain and again.config == plain.config


def test_paths_may_be_given_as_text_or_paths(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "mine.gin").write_text("include 'dual.gin'\nSEED = 4\n")
    for given in (folder, str(folder), [folder]):
        assert mixlm.load_recipe(Path("mine.gin"), search_paths=given).seed == 4
