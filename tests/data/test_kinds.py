"""The kind of a file or folder is told by the endings of names, and --text picks the gin file that reads it."""

import gzip
from pathlib import Path

import pytest

from mixlm.cli import decode
from mixlm.data.sources.arrow import Arrow
from mixlm.data.sources.babylm import BabyLM
from mixlm.data.sources.base import SPLITS
from mixlm.data.sources.jsonl import JsonLines
from mixlm.data.sources.kinds import kind_of, kinds
from mixlm.data.sources.parquet import Parquet
from mixlm.data.sources.text import TextFiles
from mixlm.data.sources.tfrecord import TFRecords
from mixlm.data.vocabulary import SentencePieceFile, TrainedSentencePiece
from mixlm.errors import NotHere, UserError
from mixlm.evaluation.run import Scoring
from mixlm.gin_config.build import configured, configured_all
from mixlm.gin_config.flags import parse_flags
from mixlm.recipe import Recipe

NAMES = {
    "text": ["a.txt", "b.txt.gz", "c.txt.zst", "deep/b.txt"],
    "jsonl": ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.jsonl-00000-of-00001.zst", "deep/c.json.gz"],
    "tfrecord": ["a.tfrecord", "b.tfrecords", "c.tfrecord-00000-of-00002", "deep/d.tfrecord.gz"],
    "parquet": ["a.parquet", "b-00000-of-00002.parquet"],
    "arrow": ["data-00000-of-00001.arrow"],
    "babylm": ["a.train", "b.dev"],
}


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"word")
    return folder


READ = {
    "text": TextFiles, "jsonl": JsonLines, "tfrecord": TFRecords, "parquet": Parquet, "arrow": Arrow, "babylm": BabyLM,
}  # fmt: skip


def test_the_kinds_of_this_package_are_found_by_their_classes():
    assert {kind.kind(): kind for kind in kinds() if kind.__module__.startswith("mixlm.")} == READ


@pytest.mark.parametrize("kind", READ)
def test_a_folder_is_of_its_files_kind(tmp_path, kind):
    folder = put(tmp_path, *reversed(NAMES[kind]), "README.md", "dataset_info.json", "a.txt.old", "tfrecord.py")
    for path in (folder, *(folder / name for name in NAMES[kind])):
        assert kind_of(str(path)) is READ[kind]
        read = READ[kind](str(path)).files()
        assert [file.relative_to(folder).as_posix() for file in read] == [
            name for name in NAMES[kind] if path in (folder, folder / name)
        ]
    for other in set(READ) - {kind}:
        with pytest.raises(UserError, match=r"holds no file that ends in \.\w+"):
            READ[other](str(folder)).files()


def test_a_file_of_any_other_name_is_text(tmp_path):
    assert kind_of(str(put(tmp_path, "corpus.md") / "corpus.md")) is TextFiles


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["a.txt", "b.jsonl"],
            r"^The folder '[^']*' holds several kinds of text, \.jsonl, [^:]* and \.txt, [^:]*: give each a",
        ),
        (
            ["a.txt", "b.jsonl", "c.tfrecord"],
            r"several kinds of text, \.jsonl[^:]* and \.txt, [^:]* and \.tfrecord[^:]*: give",
        ),
        (["a.md"], r"^The folder '[^']*' holds no text: no file ends in [^\n]*\.jsonl, [^\n]*\.txt, [^\n]*\.$"),
    ],
)
def test_a_folder_that_is_of_no_kind_is_one_sentence(tmp_path, names, words):
    with pytest.raises(UserError, match=words):
        kind_of(str(put(tmp_path, *names)))


def test_what_is_not_there_has_a_nearest_name(tmp_path):
    put(tmp_path, "texts/a.txt")
    with pytest.raises(UserError, match=r"no file or folder '[^']*text'\. Did you mean '[^']*texts'\?$"):
        kind_of(str(tmp_path / "text"))
    with pytest.raises(NotHere, match=r"say --gin\.TEXT"):
        kind_of("")


def built(*arguments: str) -> Recipe:
    return configured(parse_flags(["--gin_file=spactor.gin", *arguments], ""), Recipe)


@pytest.mark.parametrize("kind", READ)
def test_one_flag_names_the_text(tmp_path, kind):
    put(tmp_path, *NAMES[kind])
    flag = f"--text={tmp_path}"
    plain = built(flag, "--gin.DOCUMENT_BOS=True")
    assert plain == built(f"--gin_file=data/{kind}.gin", f"--gin.TEXT={tmp_path}", "--gin.DOCUMENT_BOS=True")
    task = plain.dataset.task
    assert (task.source, task.name, task.add_bos) == (READ[kind](str(tmp_path)), kind, True)
    # The order of the flags does not matter, and a space is as good as an equals sign.
    assert configured(parse_flags(["--text", str(tmp_path), "--gin_file=spactor.gin"], ""), Recipe) == built(flag)
    # What the later files say of vocabulary and name stays.
    own = built(flag, "--gin_file=data/vocabulary_file.gin", "--gin.VOCAB_MODEL=v", "--gin.MIXTURE_OR_TASK_NAME=mine")
    assert own.dataset.task.vocabulary == SentencePieceFile("v", mask=32000) and own.dataset.task.name == "mine"
    scaled = built("--gin_file=scale/spactor.gin", flag, "--gin.VOCAB_MODEL=v")
    assert scaled.dataset.task.vocabulary == SentencePieceFile("v", mask=32000)
    assert scaled.dataset.task.source == READ[kind](str(tmp_path))


def test_decoding_and_evaluating_take_the_same_flag(tmp_path):
    put(tmp_path, "a.txt")
    flags = ["--gin_file=dual.gin", f"--text={tmp_path}"]
    given, recipe = decode.parse([*flags, "--prompt=The"])
    assert recipe == parse_flags(flags, "") and given.prompt == ["The"]
    assert decode.parse(["--text", str(tmp_path), "--gin_file=dual.gin"])[1] == recipe
    plain, _ = configured_all(recipe, (Recipe, Scoring), ("evaluate.gin",))
    assert plain.dataset.task.source == TextFiles(str(tmp_path))


def test_a_scale_keeps_its_vocabulary_s_size(tmp_path):
    put(tmp_path, "a.txt")
    flags = ["--gin_file=dual.gin", "--gin_file=scale/dual.gin", f"--text={tmp_path}"]
    task = configured(parse_flags(flags, ""), Recipe).dataset.task
    assert (task.vocabulary, task.source) == (TrainedSentencePiece(51200), TextFiles(str(tmp_path)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text={folder}", "--gin.TEXT={folder}"], r"^--text and --gin\.TEXT both name a text: give one of them\.$"),
        (["--text={folder}/b"], r"no file or folder"),
        (["--text"], r"^--text: expected one argument\.$"),
        (["--text={folder}", "--gin_file=data/seqio_task.gin"], r"has no effect"),
        (["--txt={folder}"], r"Did you mean '--text'\?$"),
    ],
)
def test_a_text_that_cannot_be_meant_is_one_sentence(tmp_path, arguments, words):
    put(tmp_path, "a.txt")
    with pytest.raises(UserError, match=words):
        built(*(argument.format(folder=tmp_path) for argument in arguments))


def write(path: Path, texts: list[object], feature: str = "text") -> None:
    import tensorflow as tf

    records = []
    for number, text in enumerate(texts):
        example = tf.train.Example()
        example.features.feature["number"].int64_list.value.append(number)
        if text is not None:
            example.features.feature[feature].bytes_list.value.append(
                text if isinstance(text, bytes) else text.encode()
            )
        records.append(example.SerializeToString())
    packed = path.suffix == ".gz"
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type="GZIP" if packed else "")) as writer:
        for record in records:
            writer.write(record)


def both(source: TFRecords) -> dict[str, list[str]]:
    return {split: list(source.documents(split)) for split in SPLITS}


def test_tfrecords_are_read_in_order_and_split_as_json_lines_are(tmp_path):
    documents = [f"Document  {number} \u00e9." if number % 9 else " " for number in range(300)]
    for number, name in enumerate(["a.tfrecord", "b.tfrecord.gz", "c.tfrecord-00000-of-00001"]):
        write(tmp_path / name, documents[100 * number : 100 * (number + 1)], feature="body")
    source = TFRecords(str(tmp_path), feature="body", validation_fraction=0.1)
    splits = both(source)
    whole = [" ".join(text.split()) for text in documents if text.strip()]
    held_out = set(splits["validation"])
    assert 10 < len(held_out) < 50
    assert splits["train"] == [text for text in whole if text not in held_out]
    assert splits["validation"] == [text for text in whole if text in held_out]
    lines = tmp_path / "same.jsonl"
    lines.write_text("".join(f'{{"text": "{text}"}}\n' for text in whole), encoding="utf-8")
    assert splits == {split: list(JsonLines(str(lines), "text", 0.1).documents(split)) for split in SPLITS}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a", None], r"^Record 2 of '[^']*a\.tfrecord' has no 'text', only 'number'\.$"),
        (["a", b"caf\xe9"], r"^Record 2 of '[^']*a\.tfrecord' is not UTF-8: byte 3 of its 'text'\.$"),
        (["a", "a"], r"holds fewer than two different documents"),
    ],
)
def test_bad_examples_name_the_file_and_the_record(tmp_path, texts, words):
    write(tmp_path / "a.tfrecord", texts)
    with pytest.raises(UserError, match=words):
        both(TFRecords(str(tmp_path)))
    with pytest.raises(UserError, match=r"'number' in record 1 of '[^']*' is no text but int64_list with 0 texts\.$"):
        both(TFRecords(str(tmp_path), feature="number"))


@pytest.mark.parametrize("name", ["a.tfrecord", "a.tfrecord.gz"])
def test_every_cut_and_every_changed_byte_of_a_file_is_named(tmp_path, name):
    path = tmp_path / name
    write(path, [f"Document {number}." for number in range(4)])
    whole = path.read_bytes()
    assert sum(map(len, both(TFRecords(str(path), validation_fraction=0.5)).values())) == 4
    # A file that is cut between two records is a whole one, of fewer.
    length = 16 + int.from_bytes(whole[:8], "little")
    cuts = [whole[:size] for size in range(1, len(whole), 7) if name.endswith(".gz") or size % length]
    # Bytes 4 to 9 of a gzip file say nothing of its content, nor does a name that follows them.
    places = [place for place in range(0, len(whole), 7) if not (name.endswith(".gz") and 3 <= place < 10)]
    flips = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in places]
    for content in [*cuts, *flips, whole + b"?"]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"^The TFRecord file '[^\n]*{name}' is [^\n]*\.$"):
            assert not both(TFRecords(str(path), validation_fraction=0.5)), content


def test_what_is_no_tfrecord_is_named(tmp_path):
    for content in (b"This is plain text, and long enough.", gzip.compress(b"text")):
        (tmp_path / "a.tfrecord").write_bytes(content)
        with pytest.raises(UserError, match=r"^The TFRecord file '[^']*' is damaged: [^\n]*\.$"):
            both(TFRecords(str(tmp_path)))
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(b"\xff\xff no Example")
    with pytest.raises(UserError, match=r"^Record 1 of '[^']*' is no tf\.train\.Example\.$"):
        both(TFRecords(str(tmp_path)))


def test_the_fingerprint_of_tfrecords_follows_all_that_matters_and_not_the_place(tmp_path):
    for name in ("here", "there"):
        for file in "ab":
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{file}.tfrecord").write_bytes(file.encode() * 9)
    source = TFRecords(str(tmp_path / "here"))
    elsewhere = TFRecords(str(tmp_path / "there"))
    assert source.fingerprint() == elsewhere.fingerprint()
    others = [
        source.fingerprint(),
        TFRecords(source.path, feature="body").fingerprint(),
        TFRecords(source.path, validation_fraction=0.1).fingerprint(),
    ]
    (tmp_path / "there" / "b.tfrecord").rename(tmp_path / "there" / "c.tfrecord")
    others.append(elsewhere.fingerprint())
    (tmp_path / "there" / "c.tfrecord").write_bytes(b"c")
    others.append(elsewhere.fingerprint())
    assert len(set(others)) == 5
    with pytest.raises(UserError, match="between 0 and 1"):
        TFRecords("", validation_fraction=0.0)
