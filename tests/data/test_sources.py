"""Corpora of others are read in order, split by document, and what is wrong with them is one sentence."""

import gzip
import json
import os
import random
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.data.sources.base import SPLITS, Source
from mixlm.data.sources.jsonl import JsonLines
from mixlm.data.sources.tfds import Tfds
from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.recipe import Recipe


def both(source: Source) -> dict[str, list[str]]:
    return {split: list(source.documents(split)) for split in SPLITS}


def write(path: Path, documents: list[str], feature: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"id": number, feature: text}) + "\n" for number, text in enumerate(documents))
    content = lines.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_a_folder_of_json_lines_is_read_in_order_and_split_by_document(tmp_path):
    documents = [f"Document {number} has words." for number in range(600)]
    names = [*(f"{letter}.jsonl" for letter in "abcd"), "e.jsonl.gz", "f/a.json.gz"]
    for number in (3, 0, 5, 1, 4, 2):
        write(tmp_path / names[number], documents[100 * number : 100 * (number + 1)])
    (tmp_path / "notes.txt").write_text("not read")
    source = JsonLines(str(tmp_path), validation_fraction=0.1)
    splits = both(source)
    held_out = set(splits["validation"])
    assert splits["train"] == [text for text in documents if text not in held_out]
    assert splits["validation"] == [text for text in documents if text in held_out]
    assert 30 < len(held_out) < 90
    # Neither the place of a document nor the other documents decide on its side.
    shuffled = [*documents, "One more."]
    random.Random(0).shuffle(shuffled)
    write(tmp_path / "other" / "all.jsonl", shuffled)
    assert set(both(JsonLines(str(tmp_path / "other" / "all.jsonl"), validation_fraction=0.1))["validation"]) in (
        held_out,
        held_out | {"One more."},
    )


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("ab \u00e9", max_size=8), min_size=1, max_size=12),
    fraction=st.sampled_from([1e-9, 0.05, 0.5, 0.999999]),
)
def test_every_document_is_on_one_side_and_no_side_is_empty(tmp_path_factory, texts, fraction):
    path = tmp_path_factory.mktemp("lines") / "few.jsonl"
    write(path, texts)
    source = JsonLines(str(path), validation_fraction=fraction)
    whole = [" ".join(text.split()) for text in texts if text.strip()]
    if len(set(whole)) < 2:
        with pytest.raises(UserError, match="fewer than two different documents"):
            both(source)
        return
    splits = both(source)
    found = [" ".join(text.split()) for split in SPLITS for text in splits[split]]
    assert sorted(found) == sorted(whole)
    assert splits["train"] and splits["validation"]
    assert not set(splits["train"]) & set(splits["validation"])


def test_other_features_and_half_characters_are_text(tmp_path):
    write(tmp_path / "a.jsonl", ["one", "two  words\r\n", "   ", "half \ud800 a character"], feature="body")
    (tmp_path / "b.jsonl").write_bytes(b'\n{"body": "three"}\n\n{"body": "four"}')
    splits = both(JsonLines(str(tmp_path), feature="body", validation_fraction=0.3))
    found = {text for texts in splits.values() for text in texts}
    assert found == {"one", "two words", "half ? a character", "three", "four"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"text": "a"}\n{"text": "b",}\n', r"^Line 2 of '[^\n]*bad.jsonl' is not JSON: [^\n]* at column \d+[.]$"),
        (b'{"text": "a"}\n\n["text"]\n', r"^Line 3 of '[^\n]*bad.jsonl' is no JSON object with a 'text' in it[.]$"),
        (b'{"txt": "a", "id": 3}\n', r"^Line 1 of [^\n]* has no 'text', only 'txt', 'id'[.] Did you mean 'txt'[?]$"),
        (b'{"text": ["a"]}\n', r"^'text' in line 1 of '[^\n]*bad.jsonl' is no text but list[.]$"),
        (b'{"text": "caf\xe9"}\n', r"^Line 1 of '[^\n]*bad.jsonl' is not UTF-8[.]$"),
        (b"", r"holds fewer than two different documents"),
        (b'{"text": "a"}\n{"text": "a "}\n', r"holds fewer than two different documents"),
    ],
)
def test_bad_json_names_the_file_and_the_line(tmp_path, content, words):
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=words):
        both(JsonLines(str(tmp_path)))


def test_a_bad_gzip_file_is_named(tmp_path):
    path = tmp_path / "cut.jsonl.gz"
    write(path, [f"Document {number}." for number in range(1000)])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no gzip", whole[:100] + bytes(100) + whole[200:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cut.jsonl.gz' is no whole gzip file: [^\n]*[.]$"):
            both(JsonLines(str(path), validation_fraction=1e-9))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", r"say --gin\.TEXT=FILE_OR_FOLDER"),
        ("linse.jsonl", r"no file or folder .*Did you mean .*lines\.jsonl"),
        ("empty", r"holds no file that ends in \.jsonl, \.jsonl\.gz, \.json\.gz\.$"),
    ],
)
def test_json_lines_that_are_not_there(tmp_path, path, words):
    (tmp_path / "lines.jsonl").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        both(JsonLines(str(tmp_path / path) if path else ""))


def test_the_fingerprint_of_json_lines_follows_all_that_matters_and_not_the_place(tmp_path):
    for name in ("here", "there"):
        for file in "ab":
            write(tmp_path / name / f"{file}.jsonl", [file, "c"])
    source = JsonLines(str(tmp_path / "here"))
    elsewhere = replace(source, path=str(tmp_path / "there"))
    assert source.fingerprint() == elsewhere.fingerprint()
    others = {
        source.fingerprint(),
        replace(source, feature="id").fingerprint(),
        replace(source, validation_fraction=0.1).fingerprint(),
    }
    (tmp_path / "there" / "b.jsonl").rename(tmp_path / "there" / "c.jsonl")
    others.add(elsewhere.fingerprint())
    write(tmp_path / "there" / "c.jsonl", ["b", "d"])
    others.add(elsewhere.fingerprint())
    assert len(others) == 5
    with pytest.raises(UserError, match="between 0 and 1"):
        replace(source, validation_fraction=1.0)


STORIES = [f"Story {number}: once  upon a time.\n" for number in range(207)]


def prepare(folder: Path, version: str, texts: list[str]) -> None:
    """A data set as TFDS itself writes it: the last seven documents are the validation split."""
    import tensorflow_datasets as tfds

    class Stories(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        pkg_dir_path = folder

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "number": np.int64})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 200), "validation": self._generate_examples(200, 207)}

        def _generate_examples(self, first, last):
            for number in range(first, last):
                yield number, {"text": texts[number], "number": number}

    config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=4)
    Stories(data_dir=str(folder)).download_and_prepare(download_config=config)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a data set in two versions, the newer one's text in several files."""
    folder = tmp_path_factory.mktemp("tfds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own
        prepare(folder, "2.9.0", [f"Old {number}." for number in range(207)])
        prepare(folder, "2.10.0", STORIES)
    return folder


def stories(source: Tfds) -> dict[str, list[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own
        return both(source)


def in_files(folder: Path, split: str) -> list[str]:
    """The documents in the order of the files, which TFDS shuffled when it wrote them."""
    import tensorflow as tf

    files = sorted(map(str, folder.glob(f"*-{split}.tfrecord*")))
    feature = {"text": tf.io.FixedLenFeature((), tf.string)}
    records = (
        tf.io.parse_single_example(record, feature) for file in files for record in tf.data.TFRecordDataset(file)
    )
    return [record["text"].numpy().decode() for record in records]


def test_a_tfds_data_set_is_read_in_the_order_of_its_files(home):
    folder = home / "stories" / "2.10.0"
    expected = {split: [" ".join(text.split()) for text in in_files(folder, split)] for split in SPLITS}
    assert len(list(folder.glob("*train*"))) == 4 and len(expected["train"]) == 200
    assert stories(Tfds("stories", data_dir=str(home))) == expected
    assert stories(Tfds("stories:2.10.0", data_dir=str(home))) == expected
    assert stories(Tfds("stories:2.9.0", data_dir=str(home)))["validation"][0].startswith("Old 20")
    parts = Tfds("stories", train_split="train[40:140]", validation_split="train[:10]", data_dir=str(home))
    assert stories(parts) == {"train": expected["train"][40:140], "validation": expected["train"][:10]}


@pytest.fixture(scope="module")
def wikipedia(tmp_path_factory) -> Path:
    """A folder with a small Wikipedia, of the name, configuration, version, features and split of TFDS's own."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.text import wikipedia as own

    folder = tmp_path_factory.mktemp("wikipedia")

    class Wikipedia(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = own.Wikipedia.VERSION
        BUILDER_CONFIGS = (own.Wikipedia.BUILDER_CONFIGS[0],)
        pkg_dir_path = folder
        _info = own.Wikipedia._info

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(300):
                yield number, {"title": f"Title {number}", "text": f"Article {number}."}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own
        config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=3)
        Wikipedia(data_dir=str(folder)).download_and_prepare(download_config=config)
    return folder


def test_wikipedia_gin_names_what_tfds_prepares_and_holds_out_a_hundredth(wikipedia):
    arguments = ["--gin_file=spactor.gin", "--gin_file=data/wikipedia.gin", f"--gin.TFDS_DATA_DIR={wikipedia}"]
    source = configured(parse_flags([*arguments, "--gin.VOCAB_MODEL=t5.model"], ""), Recipe).dataset.task.source
    splits = stories(source)
    expected = in_files(wikipedia / "wikipedia" / "20230601.en" / "1.0.0", "train")
    assert sorted(expected) == sorted(f"Article {number}." for number in range(300))
    assert splits == {"train": expected[:297], "validation": expected[297:]}
    assert source.fingerprint() != replace(source, train_split="train[:98%]").fingerprint()


def test_the_folder_comes_from_tfds_s_own_variable(home, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(home))
    assert Tfds("stories").fingerprint() == Tfds("stories", data_dir=str(home)).fingerprint()
    monkeypatch.setenv("TFDS_DATA_DIR", str(home / "stories"))
    with pytest.raises(UserError, match="is not prepared in"):
        Tfds("stories").fingerprint()


def test_the_fingerprint_of_a_data_set_follows_version_feature_and_splits(home, tmp_path):
    source = Tfds("stories", data_dir=str(home))
    assert replace(source, name="stories:2.10.0").fingerprint() == source.fingerprint()
    others = [
        source,
        replace(source, name="stories:2.9.0"),
        replace(source, feature="title"),
        replace(source, train_split="train[:50%]"),
        replace(source, validation_split="train[50%:]"),
    ]
    # The same files under another version's name.
    (tmp_path / "stories").mkdir()
    os.symlink(home / "stories" / "2.10.0", tmp_path / "stories" / "2.10.1")
    others.append(Tfds("stories", data_dir=str(tmp_path)))
    assert len({other.fingerprint() for other in others}) == len(others)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "story"}, r"^The data set 'story' is not prepared in '[^']*': run tfds\.builder\('story', data_dir="),
        ({"name": "stories:2.11.0"}, r"'stories:2\.11\.0' is not prepared in [^\n]* first\.$"),
        ({"name": "stories/small"}, r"'stories/small' is not prepared"),
        (
            {"train_split": "tran[:9%]"},
            r"has no split 'tran\[:9%\]', only 'train', 'validation'\. Did you mean 'train'",
        ),
        ({"feature": "txt"}, r"has no feature 'txt'\. Did you mean 'text'\?$"),
    ],
)
def test_what_a_data_set_lacks_is_one_sentence(home, change, words):
    with pytest.raises(UserError, match=words):
        stories(replace(Tfds("stories", data_dir=str(home)), **change))


def test_names_and_splits_that_cannot_be(home):
    with pytest.raises(UserError, match=r"'c4 en' is not like 'c4', 'c4/en' or"):
        Tfds("c4 en")
    with pytest.raises(UserError, match="both train and validate on 'train'"):
        Tfds("c4/en", validation_split="train")


def test_a_broken_record_is_named_and_an_unfinished_version_is_passed_over(home, tmp_path):
    (tmp_path / "stories").mkdir()
    os.symlink(home / "stories" / "2.9.0", tmp_path / "stories" / "2.9.0")
    (tmp_path / "stories" / "3.0.0").mkdir()
    source = Tfds("stories", data_dir=str(tmp_path))
    assert source.fingerprint() == Tfds("stories:2.9.0", data_dir=str(home)).fingerprint()
    (tmp_path / "stories" / "3.0.0" / "dataset_info.json").write_text('{"splits": ')
    with pytest.raises(UserError, match=r"^The record '[^']*dataset_info\.json' is damaged\.$"):
        source.fingerprint()
