"""Fine-tuning files over a run: the network, the vocabulary and the sizes are the run's, everything else is theirs."""

import json

import pytest
from support.places import GIN

from mixlm.data.supervised.tasks import TASKS
from mixlm.errors import UserError
from mixlm.gin_config.build import config_text, load
from mixlm.gin_config.flags import parse_flags
from mixlm.models.heads import ClassHead
from mixlm.objectives.classification import Classification
from mixlm.objectives.seq2seq import Seq2Seq
from mixlm.recipe import Recipe

FOLDER = GIN / "finetune"
PARTS = {"base", "classes", "diffusion", "suite"}  # what is no task or suite
SUITES = {"glue", "super_glue"}
SMALL = {"VOCAB_SIZE": 192, "EMB_DIM": 16, "DOCUMENT_BOS": True}


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """The folder of a run of each network, as far as its configuration goes."""
    folder = tmp_path_factory.mktemp("runs")
    for recipe in ("dual", "spactor", "antlm_ltg_bert"):
        made = load(f"{recipe}.gin", text=corpus, BATCH_SIZE=8, SEED=7, MODEL_DIR=f"{folder}/{recipe}", **SMALL)
        made.folder.mkdir()
        (made.folder / "config.gin").write_text(made.config)
        (made.folder / "recipe.json").write_text(json.dumps(made.identity()))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 20), ("dev", 6)):
        lines = [json.dumps({"sentence": "the farmer sells a boat", "label": n % 2}) for n in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def test_every_task_has_a_file_of_its_name():
    assert {path.stem for path in FOLDER.glob("*.gin")} == PARTS | SUITES | set(TASKS)


@pytest.mark.parametrize("name", sorted({*TASKS} | SUITES))
def test_a_file_fits_a_run(run, name):
    text = config_text(parse_flags([f"--gin_file=finetune/{name}.gin", f"--gin.INIT_FROM={run}/dual"], ""), Recipe)
    assert f"RECIPE = '{name}'" in text and "emb_dim = %EMB_DIM  # 16" in text


@pytest.mark.parametrize("recipe", ["dual", "spactor", "antlm_ltg_bert"])
def test_the_network_is_the_run_s_and_the_rest_is_the_file_s(run, data, recipe):
    files = ["finetune/sst2.gin"] if recipe == "spactor" else ["finetune/sst2.gin", "finetune/classes.gin"]
    made = load(*files, INIT_FROM=f"{run}/{recipe}@4", DATA=data, MODEL_DIR="here")
    before = load(f"{run}/{recipe}/config.gin")
    assert repr(made.networks["model"]) == repr(before.networks["model"]).replace(
        "dropout_rate = 0.0", "dropout_rate = 0.1"
    )
    assert made.tokens == before.tokens and made.batch_size == 64 and made.seed == 0 and made.model_dir == "here"
    assert (made.eval_period, made.checkpoint_period, made.eval_batches) == (1, 1, 1)
    objective = made.curriculum.stages[0].objective
    if recipe == "spactor":
        assert isinstance(objective, Seq2Seq) and set(made.networks) == {"model"}
    else:
        assert isinstance(objective, Classification) and made.networks["class_head"] == ClassHead(16, 2, 0.1)
    # The recipe's own record builds it again, wherever the run that it began from has gone.
    (data / "config.gin").write_text(made.config)
    assert load(str(data / "config.gin")).identity() == made.identity()


def test_a_network_begins_from_scratch_where_a_recipe_comes_first(run, corpus, data):
    made = load("dual.gin", "finetune/sst2.gin", text=corpus, DATA=data, **SMALL)
    assert (
        made.init_from is None
        and made.networks == load("finetune/sst2.gin", INIT_FROM=f"{run}/dual", DATA=data).networks
    )


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (None, r"finetune/sst2.gin trains the network of a run: name it with --gin.INIT_FROM=RUN, or put a recipe"),
        ("duel", r"INIT_FROM = .*duel' is no run's folder .* Did you mean '.*/dual'"),
    ],
)
def test_a_run_that_is_missing_is_asked_for(run, source, sentence):
    given = [] if source is None else [f"--gin.INIT_FROM={run}/{source}"]
    with pytest.raises(UserError, match=sentence):
        config_text(parse_flags(["--gin_file=finetune/sst2.gin", *given], ""), Recipe)
