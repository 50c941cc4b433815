"""A run keeps a copy of the vocabulary that it was given: it is evaluated and resumed when the file has gone."""

import pytest
from support.from_outside import run

from mixlm.data.sentencepiece_training import train
from mixlm.data.vocabularies.kept import keep, stand_in
from mixlm.data.vocabulary import TrainedSentencePiece


def test_a_copy_stands_in_for_a_file_that_has_gone(tmp_path):
    (tmp_path / "my.model").write_bytes(b"pieces")
    (tmp_path / "run").mkdir()
    given = str(tmp_path / "my.model")
    keep(tmp_path / "my.model", tmp_path / "run")
    keep(tmp_path / "bytes", tmp_path / "run")  # no file
    assert stand_in(given, tmp_path / "run") is None
    (tmp_path / "my.model").unlink()
    copy = stand_in(given, tmp_path / "run")
    assert copy == tmp_path / "run" / "vocabulary" / "my.model" and copy.read_bytes() == b"pieces"
    assert stand_in(given, tmp_path) is None and stand_in("", tmp_path / "run") is None
    assert [path.name for path in copy.parent.iterdir()] == ["my.model"]


@pytest.mark.slow
def test_a_run_goes_on_when_its_vocabulary_has_gone(tmp_path, corpus):
    texts = (path.read_text() for path in sorted(corpus.iterdir()))
    (tmp_path / "my.model").write_bytes(train(TrainedSentencePiece(112, sentinels=20), texts))
    command = ("train", "--gin_file=tiny.gin", "--gin_file=data/vocabulary.gin")
    run(tmp_path, corpus, {}, (*command, f"--gin.VOCAB_MODEL={tmp_path / 'my.model'}"))
    gone = (tmp_path / "my.model").rename(tmp_path / "gone.model")
    config = f"--gin_file={tmp_path / 'run' / 'config.gin'}"
    resumed, table = run(tmp_path, corpus, {}, ("train", config), ("evaluate", config))
    assert any("has finished its 4 steps" in line for line in resumed) and any("causal" in line for line in table)
    other = gone.read_bytes().replace(b"farmer", b"former")
    assert other != gone.read_bytes()
    (tmp_path / "my.model").write_bytes(other)
    with pytest.raises(AssertionError, match="vocabulary"):
        run(tmp_path, corpus, {}, ("evaluate", config, f"--gin.VOCAB_MODEL={tmp_path / 'my.model'}"))
