"""A new kind of text is one Python file and one gin file, those of docs/extending.md: nothing of mixlm is edited."""

import csv
import sys

import pytest
from support.markdown import titled
from support.places import ROOT

from mixlm.data.sources.base import SPLITS
from mixlm.data.sources.kinds import kind_of, kinds
from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.recipe import Recipe

FILES = titled(ROOT / "docs" / "extending.md", "A data source")


@pytest.fixture
def kind(tmp_path, monkeypatch):
    """The two files of the new kind, in a folder where Python and gin find them."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("csv_table", None)


@pytest.fixture
def table(kind, corpus):
    """The corpus as one table, and its documents."""
    documents = [" ".join(path.read_text().split()) for path in sorted(corpus.glob("*.txt"))]
    with open(kind / "talk.csv", "w", newline="") as file:
        csv.writer(file).writerows([["number", "text"], *enumerate(documents)])
    return documents


SIZE = "--gin.VOCAB_SIZE=180"


def built(*arguments: str) -> Recipe:
    return configured(parse_flags(["--gin_file=dual.gin", "--gin_file=csv.gin", *arguments], ""), Recipe)


@pytest.mark.parametrize("flag", ["--gin.TEXT=talk.csv", "--text=talk.csv"])
def test_a_table_is_trained_on_by_its_path(table, flag):
    dataset = built(flag, SIZE, "--gin.CACHE_DIR=cache").dataset
    assert repr(dataset.task.source) == "Table(feature='text', validation_fraction=0.05, delimiter=',')"
    assert dataset.task.name == "table"
    documents = [document for split in SPLITS for document in dataset.task.source.documents(split)]
    assert sorted(documents) == sorted(table)
    prepared = dataset.prepare(lambda line: None)
    stored = prepared.store.split("train")
    texts = list(dataset.task.source.documents("train"))
    assert stored.tokens.tolist() == [token for text in texts for token in [3, *prepared.vocabulary.encode(text)]]


def test_settings_of_the_kind_hold_with_text_as_well(table):
    assert built("--text=talk.csv", "--gin.DELIMITER=;").dataset.task.source.delimiter == ";"


def test_a_mixture_takes_the_kind_by_its_endings(table, kind, corpus):
    (kind / "other").symlink_to(corpus)
    given = ("--gin_file=data/mixture.gin", "--gin.TEXTS=('talk.csv', 'other')", "--gin.RATES=(1, 1)")
    prepared = built(*given, SIZE, "--gin.CACHE_DIR=cache").dataset.prepare(lambda line: None)
    talk, other = (part.summary.documents for part in prepared.parts)
    assert sum(talk.values()) == sum(other.values()) == len(table)


def test_the_endings_are_the_kind_s_and_come_before_those_of_mixlm(table, kind):
    built("--gin.TEXT=talk.csv")
    assert kind_of("talk.csv").__name__ == "Table" and kinds()[0].kind() == "csv_table"
    (kind / "a.csv.txt").write_text("text")
    assert kind_of("a.csv.txt").__name__ == "Table"
    with pytest.raises(UserError, match=r"holds several kinds of text, \.csv, \.csv\.txt and \.jsonl"):
        (kind / "both").mkdir()
        (kind / "both" / "a.csv").write_text("text")
        (kind / "both" / "a.jsonl").write_text("text")
        kind_of("both")


def test_a_kind_that_nobody_names_is_not_read_as_another(table):
    built("--gin.TEXT=talk.csv")
    with pytest.raises(UserError, match=r"^'talk\.csv' is read by csv_table\.Table, which no gin file here names"):
        configured(parse_flags(["--gin_file=dual.gin", "--text=talk.csv"], ""), Recipe)


def test_a_changed_reader_is_another_text(table, kind):
    source = built("--gin.TEXT=talk.csv").dataset.task.source
    before = source.fingerprint()
    assert source.fingerprint() == before
    (kind / "csv_table.py").write_text(FILES["csv_table.py"].replace("yield row", "yield 2 * row"))
    assert source.fingerprint() != before
