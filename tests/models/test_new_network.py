"""A network from outside is one Python file and one gin file, those of docs/extending.md."""

from statistics import fmean

import pytest
from support import from_outside
from support.markdown import titled
from support.places import ROOT


@pytest.mark.slow
def test_a_network_is_one_python_file_and_one_gin_file(corpus, tmp_path):
    files = titled(ROOT / "docs" / "extending.md", "A network")
    command = (
        "train",
        "--gin_file=tiny.gin",
        "--gin_file=min_gru.gin",
        "--gin.MinGRU.emb_dim=16",
        "--gin.TRAIN_STEPS=40",
    )
    from_outside.run(tmp_path, corpus, files, command)
    record = from_outside.records(tmp_path)
    assert [line["step"] for line in record] == list(range(1, 41))
    # Each step reads other rows.
    losses = [line["loss"] for line in record]
    assert fmean(losses[-10:]) < fmean(losses[:10])
    assert "validation/causal" in record[-1]
