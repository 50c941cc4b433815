"""TFDS data sets on the disk are read in the order of their files, and what they lack is one sentence."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mixlm.data.sources.base import SPLITS, Source
from mixlm.data.sources.tfds import Tfds
from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.recipe import Recipe


def both(source: Source) -> dict[str, list[str]]:
    return {split: list(source.documents(split)) for split in SPLITS}


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
            r"has no split 'tran', only 'train', 'validation'\. Did you mean 'train'",
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


def test_a_record_is_a_regular_file_of_plain_json(tmp_path):
    folder = tmp_path / "stories" / "1.0.0"
    folder.mkdir(parents=True)
    record, source = folder / "dataset_info.json", Tfds("stories", data_dir=str(tmp_path))
    os.mkfifo(record)
    with pytest.raises(UserError, match=r"dataset_info\.json' is a pipe, and only regular files are read"):
        source.fingerprint()
    record.unlink()
    for content in ("[]", "3", '{"splits": 3}', '{"splits": ["train"]}', "[" * 100_000, f'{{"splits": {"9" * 5000}}}'):
        record.write_text(content)
        with pytest.raises(UserError, match=r"^The record '[^']*dataset_info\.json' is damaged\.$"):
            source.fingerprint()
    record.write_text('\ufeff{"splits": [{"name": "train"}, {"name": "validation"}]}')
    assert source.fingerprint()


def test_the_folder_of_data_sets_is_a_path_or_a_bucket(monkeypatch):
    with pytest.raises(UserError, match=r"^TFDS_DATA_DIR 'x.*' cannot be used: a name in it has 300 bytes"):
        Tfds("stories", data_dir="x" * 300)
    monkeypatch.setenv("TFDS_DATA_DIR", "~no.body/x")
    with pytest.raises(UserError, match=r"^TFDS_DATA_DIR '~no.body/x' cannot be used: there is no user 'no.body'"):
        Tfds("stories").fingerprint()
