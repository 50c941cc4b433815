"""An optimizer from outside is one Python file and one gin file, those of docs/extending.md."""

import pytest
from support import from_outside
from support.markdown import titled
from support.places import ROOT


@pytest.mark.slow
def test_an_optimizer_is_one_python_file_and_one_gin_file(corpus, tmp_path):
    files = titled(ROOT / "docs" / "extending.md", "An optimizer")
    command = ("train", "--gin_file=tiny.gin", "--gin_file=lion.gin", "--gin.LEARNING_RATE=0.01")
    from_outside.run(tmp_path, corpus, files, command)
    record = from_outside.records(tmp_path)
    assert [line["step"] for line in record] == [1, 2, 3, 4]
    assert record[-1]["loss"] < record[0]["loss"]
