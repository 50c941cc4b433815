"""Python in README and docs compiles, and what shows the API runs as it is written, on a tiny size."""

from pathlib import Path

import pytest
from support.markdown import PAGES, blocks, titled
from support.places import ROOT

import mixlm

PYTHON = [block for page in PAGES for block in blocks(page, "python")]


@pytest.mark.parametrize("block", PYTHON, ids=map(str, PYTHON))
def test_python_compiles(block):
    compile(block.text, str(block), "exec")


def test_the_readme_shows_a_part_of_a_whole_file():
    shown = next(block for block in blocks(ROOT / "README.md", "python") if "class Deshuffling" in block.text)
    assert shown.text in titled(ROOT / "docs" / "extending.md", "An objective")["deshuffling.py"]


TINY = {"VOCAB_SIZE": 112, "EMB_DIM": 16, "TRAIN_STEPS": 4, "BATCH_SIZE": 8, "EVAL_BATCHES": 1, "LOG_PERIOD": 1}
TINY |= {"TokenIds.sentinels": 20, "TrainedSentencePiece.sentinels": 20, "Llama.num_layers": 1, "Llama.mlp_dim": 32}
TINY |= {"VALIDATION": (), "TASK_FEATURE_LENGTHS": {"targets": 32}}
SHOWN = [*blocks(ROOT / "README.md", "python")[:1], *blocks(ROOT / "docs" / "api.md", "python")]


@pytest.fixture(scope="module")
def names(corpus, tmp_path_factory):
    """The namespace that the blocks share; recipes are made tiny and read the tests' text."""
    load_recipe = mixlm.load_recipe

    def tiny(*files, **values):
        return load_recipe(*files, "data/text.gin", **values | TINY, TEXT=corpus)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("reader"))
        patch.setattr(mixlm, "load_recipe", tiny, raising=False)
        yield {}


@pytest.mark.parametrize("block", SHOWN, ids=map(str, SHOWN))
def test_the_api_runs_as_shown(block, names, capsys):
    exec(compile(block.text, str(block), "exec"), names)
    assert (Path("runs") / "a" / "metrics.jsonl").exists()
    if "except mixlm.UserError" in block.text:
        assert "Did you mean 'ALPHA'?" in capsys.readouterr().out
