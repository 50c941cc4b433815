"""The same documents are the same tokens, whatever files they lie in; a torn file is one sentence that names it."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.data.dataset import Dataset
from mixlm.data.sources.arrow import Arrow
from mixlm.data.sources.auto import Text
from mixlm.data.sources.babylm import BabyLM
from mixlm.data.sources.base import SPLITS
from mixlm.data.sources.files import TextSource
from mixlm.data.sources.hub import HubDataset
from mixlm.data.sources.jsonl import JsonLines
from mixlm.data.sources.kinds import kind_of
from mixlm.data.sources.packed import opened
from mixlm.data.sources.parquet import Parquet
from mixlm.data.sources.text import TextFiles
from mixlm.data.tasks import TextTask
from mixlm.data.vocabularies.given import GivenVocabulary
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import NotHere, UserError

pa = pytest.importorskip("pyarrow")
zstandard = pytest.importorskip("zstandard")
import pyarrow.parquet as pq  # noqa: E402

DOCUMENTS = [f"Document {number}:\nthe farmer sells boat {number % 7} \u00e9 \u65e5\u672c." for number in range(90)]


def zst(content: bytes) -> bytes:
    """Two frames, as `zstd a b` and parallel compressors write them."""
    half = len(content) // 2
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in (content[:half], content[half:]))


def parquet(path: Path, documents: list[object], column: str = "text", **options) -> None:
    table = pa.table({"id": list(range(len(documents))), column: pa.array(documents, pa.string())})
    pq.write_table(table, path, row_group_size=13, **options)


def saved(folder: Path, documents: list[str], shards: int = 2) -> None:
    """What `datasets` saves, but for fields that nobody reads."""
    folder.mkdir(parents=True)
    size = -(-len(documents) // shards)
    names = [f"data-{number:05d}-of-{shards:05d}.arrow" for number in range(shards)]
    for number, name in enumerate(names):
        batch = pa.record_batch({"text": pa.array(documents[number * size : (number + 1) * size], pa.string())})
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
            stream.write_table(pa.Table.from_batches([batch]), max_chunksize=7)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


def put(folder: Path, documents: list[str]) -> dict[str, TextSource]:
    """The documents in files of every kind."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()
    for name in ("texts", "packed"):
        (folder / name).mkdir(parents=True)
    for number, text in enumerate(documents):
        (folder / "texts" / f"{number:04d}.txt").write_text(text, encoding="utf-8")
        ending, pack = ((".gz", gzip.compress), (".zst", zst))[number % 2]
        (folder / "packed" / f"{number:04d}.txt{ending}").write_bytes(pack(text.encode()))
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.zst").write_bytes(zst(lines))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    parquet(folder / "a.parquet", documents)
    saved(folder / "saved", documents)
    names = ["texts", "packed", "a.jsonl", "a.jsonl.zst", "a.jsonl.gz", "a.parquet", "saved"]
    return {name: kind_of(str(folder / name))(str(folder / name), validation_fraction=0.1) for name in names} | {
        name: TextFiles(str(folder / name), hold_out_by="hash", validation_fraction=0.1) for name in names[:2]
    }


def test_the_same_documents_are_one_set_of_tokens(tmp_path):
    sources = put(tmp_path, DOCUMENTS)
    assert [type(source) for source in sources.values()] == [TextFiles] * 2 + [JsonLines] * 3 + [Parquet, Arrow]
    found, stores = set(), set()
    for name, source in sources.items():
        assert list(source.all_documents()) == DOCUMENTS, name
        trained = [TrainedSentencePiece(140)] if name in ("a.jsonl.zst", "a.parquet") else []
        for spec in (GivenVocabulary("bytes"), *trained):
            task = TextTask("all", source, spec)
            prepared = Dataset(task, cache_dir=str(tmp_path / f"{name}.cache")).prepare(lambda _: None)
            # The fingerprint of a run's data, and the checksums of the files that hold its tokens.
            found.add((type(spec), prepared.train(16, 0).fingerprint, prepared.vocabulary.fingerprint))
            splits = [prepared.store.split(split) for split in SPLITS]
            stores.add((type(spec), *(split.tokens.tobytes() + split.offsets.tobytes() for split in splits)))
    assert len(found) == len(stores) == 2


@settings(max_examples=8, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=9), max_size=9))
def test_documents_of_tables_and_lines_are_kept_exactly(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("same")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    parquet(folder / "a.parquet", texts)
    lines = list(JsonLines(str(folder / "a.jsonl")).all_documents())
    assert lines == list(Parquet(str(folder / "a.parquet")).all_documents())


def both(source: TextSource) -> dict[str, list[str]]:
    return {split: list(source.documents(split)) for split in SPLITS}


def test_splits_that_come_with_the_files_are_kept_and_a_test_split_is_never_read(tmp_path):
    for name, texts in {"train": DOCUMENTS[:50], "validation": DOCUMENTS[50:60], "test": DOCUMENTS[60:]}.items():
        saved(tmp_path / "saved" / name, texts)
        (tmp_path / "hub" / "data").mkdir(parents=True, exist_ok=True)
        parquet(tmp_path / "hub" / "data" / f"{name}-00000-of-00001.parquet", texts)
    wanted = {"train": DOCUMENTS[:50], "validation": DOCUMENTS[50:60]}
    for source in (Arrow(str(tmp_path / "saved")), Parquet(str(tmp_path / "hub"))):
        assert both(source) == wanted and list(source.all_documents()) == DOCUMENTS[:60]
        assert any(note.startswith("The test split of") for note in source.notes())
    test = tmp_path / "saved" / "test"
    assert list(Arrow(str(test)).all_documents()) == DOCUMENTS[60:]  # named, it is a text like any other


def test_babylm_s_dev_files_are_the_validation_split(tmp_path):
    for name in ("a.train", "b.train", "a.dev", "a.test"):
        text = "\n".join(f"{name} line {number} of it." for number in range(400))
        (tmp_path / name).write_text(text)
    source = BabyLM(str(tmp_path))
    splits = both(source)
    assert kind_of(str(tmp_path)) is BabyLM and len(splits["train"]) >= 20
    assert all(text.startswith(("a.train", "b.train")) for text in splits["train"])
    assert all(text.startswith("a.dev") for text in splits["validation"])
    whole = "\n".join(splits["train"][: len(splits["train"]) // 2])
    assert whole == (tmp_path / "a.train").read_text() and "1 .test" in "".join(source.notes())
    (tmp_path / "a.dev").unlink()
    splits = both(source)
    assert splits["validation"] and "dev" not in "".join(splits["train"] + splits["validation"])


TORN = ("a.jsonl.zst", "a.jsonl.gz", "a.parquet", "a.arrow", "a.txt.gz", "a.txt.zst")


@pytest.mark.parametrize("name", TORN)
def test_every_cut_of_a_file_is_one_sentence_that_names_it(tmp_path, name):
    put(tmp_path / "whole", DOCUMENTS[:30])
    path, text = tmp_path / name, "\n\n".join(DOCUMENTS).encode()
    whole = {
        "a.arrow": lambda: (tmp_path / "whole" / "saved" / "data-00000-of-00002.arrow").read_bytes(),
        "a.txt.gz": lambda: gzip.compress(text), "a.txt.zst": lambda: zst(text),
    }.get(name, lambda: (tmp_path / "whole" / name).read_bytes())()  # fmt: skip
    path.write_bytes(whole)
    count = sum(map(len, both(kind_of(str(path))(str(path), validation_fraction=0.5)).values()))
    assert count > 2
    # Between two frames a Zstandard file is a whole one, of less.
    frames = {whole.find(b"\x28\xb5\x2f\xfd", 1)} if name.endswith(".zst") else set()
    cuts = {*range(1, len(whole), max(len(whole) // 12, 1)), len(whole) - 1, len(whole) - 8} - frames
    for size in sorted(cuts):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"^'[^']*{name}' is [^\n]*\.$"):
            both(kind_of(str(path))(str(path), validation_fraction=0.5))


def test_a_column_is_found_or_chosen_and_a_missing_one_is_one_sentence(tmp_path):
    path = tmp_path / "a.parquet"
    parquet(path, ["one", None, "  ", "two  words"], "body")
    assert list(Parquet(str(path)).all_documents()) == ["one", "two words"]
    with pytest.raises(
        UserError, match=r"^'[^']*a\.parquet' has no column 'bodi', only 'id', 'body'\. Did you mean 'body'\?$"
    ):
        list(Parquet(str(path), "bodi").all_documents())
    with pytest.raises(UserError, match=r"^The column 'id' of '[^']*a\.parquet' is no text but int64\.$"):
        list(Parquet(str(path), "id").all_documents())
    two = pa.table({"title": ["a"], "body": pa.array(["b"]).dictionary_encode()})
    pq.write_table(two, path)
    with pytest.raises(UserError, match=r"only 'title', 'body'; say which with --gin\.TEXT_FEATURE=title\.$"):
        list(Parquet(str(path)).all_documents())
    assert list(Parquet(str(path), "body").all_documents()) == ["b"]


def test_a_data_set_without_one_of_its_files_is_one_sentence(tmp_path):
    saved(tmp_path / "saved", DOCUMENTS)
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"lacks 'data-00001-of-00002\.arrow', which its state\.json lists\.$"):
        Arrow(str(tmp_path / "saved")).files()


def test_a_file_is_known_by_its_beginning_whatever_its_name(tmp_path):
    parquet(tmp_path / "corpus", DOCUMENTS)
    assert kind_of(str(tmp_path / "corpus")) is Parquet
    assert list(Text(str(tmp_path / "corpus")).documents("train"))
    (tmp_path / "corpus").rename(tmp_path / "corpus.txt")
    with pytest.raises(
        UserError, match=r"corpus\.txt' (?:has a NUL|is not UTF-8)[^\n]* It begins as a \.parquet file does"
    ):
        both(TextFiles(str(tmp_path / "corpus.txt")))
    for ending, content in ((".gz", gzip.compress(b"text")), (".zst", zst(b"text"))):
        (tmp_path / "packed").write_bytes(content)
        with pytest.raises(UserError, match=rf"is no UTF-8 text[^\n]*begins as a \{ending} file does: name it so\.$"):
            kind_of(str(tmp_path / "packed"))


HUB = """
import sys
from mixlm.data.sources.base import SPLITS
from mixlm.data.sources.hub import HubDataset
from mixlm.errors import NotHere, UserError
source = HubDataset(sys.argv[1])
print({split: len(list(source.documents(split))) for split in SPLITS}, next(iter(source.documents("validation"))))
other = HubDataset(sys.argv[1], feature="id")
print(source.fingerprint() == HubDataset(sys.argv[1]).fingerprint() != other.fingerprint())
held_out = HubDataset(sys.argv[1], validation_split="nothing")
print(sum(len(list(held_out.documents(split))) for split in SPLITS))
for wrong in (HubDataset(sys.argv[1] + "/gone"), HubDataset(sys.argv[1], train_split="trian")):
    try:
        list(wrong.documents("train"))
    except (NotHere, UserError) as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_a_data_set_by_name_is_read_through_datasets(tmp_path):
    """A folder laid out as a data set of the hub, since a test has no network."""
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    for name, texts in {"train": DOCUMENTS[:50], "validation": DOCUMENTS[50:60], "test": DOCUMENTS[60:]}.items():
        parquet(tmp_path / "set" / f"{name}.parquet", texts)
    off = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    program = [sys.executable, "-c", HUB, str(tmp_path / "set")]
    done = subprocess.run(program, env=os.environ | off, capture_output=True, text=True, check=False)
    counts, same, held_out, gone, split = done.stdout.replace(DOCUMENTS[50], "the first").splitlines()
    assert counts == "{'train': 50, 'validation': 10} the first" and same == "True" and held_out == "50", done
    assert gone.startswith("NotHere The data set '") and " cannot be had: " in gone
    assert split.endswith("has no split 'trian', only 'train', 'validation', 'test'. Did you mean 'train'?")


def test_a_data_set_by_name_needs_a_name_and_the_library(monkeypatch):
    with pytest.raises(NotHere, match=r"say --gin\.HUB_NAME=NAME\.$"):
        HubDataset("")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UserError, match=r"^A data set by name needs the library datasets: pip install 'mixlm\[data\]'\.$"
    ):
        list(HubDataset("org/name").documents("train"))


def test_a_file_of_arrow_s_other_format_is_read(tmp_path):
    batch = pa.record_batch({"text": DOCUMENTS})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, batch.schema) as table:
        table.write_batch(batch)
    assert list(Arrow(str(tmp_path / "a.arrow")).all_documents()) == DOCUMENTS


def test_unpacking_takes_no_more_memory_than_a_piece(tmp_path):
    """A gigabyte of one letter is some 30 kB: no read of it unpacks more than 64 MiB at once."""
    path = tmp_path / "a.txt.zst"
    packer = zstandard.ZstdCompressor().compressobj()
    path.write_bytes(b"".join([packer.compress(b"a" * 2**20) for _ in range(96)]) + packer.flush())
    with opened(path) as file:
        assert file.raw.readinto(bytearray(10)) == 10 and len(file.raw._rest) < 2**26


@pytest.mark.parametrize(("module", "name"), [("pyarrow", "a.parquet"), ("zstandard", "a.jsonl.zst")])
def test_a_library_that_is_not_there_is_one_sentence(tmp_path, monkeypatch, module, name):
    put(tmp_path, DOCUMENTS[:9])
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"^A [^\n]* needs the library {module}: pip install 'mixlm\[data\]'\.$"):
        both(kind_of(str(tmp_path / name))(str(tmp_path / name)))
