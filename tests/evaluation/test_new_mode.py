"""A new scoring mode is one Python file and one gin file, those of docs/extending.md: nothing of mixlm is edited."""

import json

import pytest
from support import from_outside
from support.markdown import titled
from support.places import ROOT


@pytest.mark.slow
def test_a_new_mode_is_one_python_file_and_one_gin_file(corpus, tmp_path):
    files = titled(ROOT / "docs" / "extending.md", "A scoring mode")
    score = ("evaluate", "--gin_file=tiny.gin", "--gin_file=last_token.gin", "--gin.SCORED_ROWS=4")
    train = ("train", "--gin_file=tiny.gin", "--gin.EVAL_PERIOD=100")
    _, table, alone = from_outside.run(
        tmp_path, corpus, files, train, (*score, "--gin.MODES=causal,last_token"), (*score, "--gin.MODES=last_token")
    )
    found = json.loads((tmp_path / "run" / "evaluation" / "latest" / "text.json").read_text())["modes"]
    assert list(found) == ["last_token"] and found["last_token"]["kind"] == "likelihood"
    # Each of the four rows is one piece of text, whose last token is scored; causal scores all sixteen.
    tokens = next(line.split()[2:] for line in table if line.startswith("tokens scored"))
    assert tokens == ["64", "4"] and found["last_token"]["tokens"] == 4
    assert 0 < found["last_token"]["nats_per_token"] < 8
    assert any("last" in line for line in alone)
