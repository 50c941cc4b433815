"""A run keeps a copy of the vocabulary that it was given, which stands in where the file has gone."""

from mixlm.data.vocabularies.kept import keep, stand_in


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
