"""Data is prepared once, the second start needs no TensorFlow, and a batch is a function of its step."""

import itertools
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import places

import gin
from mixlm.data.dataset import Dataset, PreparedData
from mixlm.data.loader.batches import Batches
from mixlm.data.loader.epochs import Repeated
from mixlm.data.store.fingerprint_cache import caching_in
from mixlm.data.store.token_store import StoreSplit
from mixlm.data.tasks import SotU, TextFiles, TextTask
from mixlm.data.vocabularies.sentencepiece import SentencePieceVocabulary
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import UserError

GIN = places.GIN / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with twelve documents of real text."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "texts").mkdir()
    documents = SotU().documents("train")
    for number in range(12):
        (folder / "texts" / f"{number:02}.txt").write_text(next(documents) + "\n\nA caf\u00e9 at 5 \u00b0C.", "utf-8")
    return folder


def dataset(folder: Path, unique_tokens: int | None = None) -> Dataset:
    task = TextTask("texts", TextFiles(str(folder / "texts"), 0.1), TrainedSentencePiece(vocab_size=1000))
    return Dataset(task, unique_tokens, cache_dir=str(folder / "cache"))


@pytest.fixture(scope="module")
def prepared(folder) -> PreparedData:
    return dataset(folder).prepare(lambda line: None)


def test_the_store_holds_every_document_of_every_split(prepared, folder):
    source = dataset(folder).task.source
    for split in ("train", "validation"):
        texts = list(source.documents(split))
        stored = prepared.store.split(split)
        tokens = np.concatenate([prepared.vocabulary.encode(text) for text in texts])
        np.testing.assert_array_equal(stored.tokens, tokens)
        assert prepared.summary.documents[split] == stored.num_documents == len(texts)
        assert prepared.summary.tokens[split] == len(tokens)
        assert prepared.summary.text_bytes[split] == sum(len(text.encode()) for text in texts)


def test_a_training_block_is_readable_text_of_the_corpus(prepared, folder):
    corpus = " ".join(" ".join(text.split()) for text in dataset(folder).task.source.documents("train"))
    blocks = prepared.train(block_length=64, seed=0)
    texts = [prepared.vocabulary.decode(block) for block in blocks.blocks(np.arange(20))]
    # A block that holds a document's end is in two places; its halves are not checked here.
    assert sum(text in corpus for text in texts) >= 15
    first = prepared.vocabulary.decode(prepared.validation(64)[0])
    held_out = next(iter(dataset(folder).task.source.documents("validation")))
    assert " ".join(held_out.split()).startswith(first)


def test_validation_rows_are_spread_over_all_blocks(prepared):
    blocks = prepared.validation(8)
    size = len(blocks)
    assert prepared.validation_size(8) == size > 4
    rows = prepared.validation_rows(8, 4)
    assert rows.tolist() == [blocks[number * size // 4].tolist() for number in range(4)]
    # More rows than there are go through them again, none twice as often as another.
    again = prepared.validation_rows(8, 2 * size)
    assert again.tolist() == [row for row in blocks.tolist() for _ in range(2)]


def test_the_bytes_of_validation_rows_are_those_of_the_text_and_are_counted_once(prepared, folder, tmp_path):
    texts = list(dataset(folder).task.source.documents("validation"))
    sizes = np.concatenate([prepared.vocabulary.encode_with_bytes(text)[1] for text in texts])
    blocks = sizes[: len(sizes) // 8 * 8].reshape(-1, 8)
    wanted = [blocks[number * len(blocks) // 4].tolist() for number in range(4)]
    gone = TextTask("texts", TextFiles(str(tmp_path / "gone")), TrainedSentencePiece(vocab_size=1000))
    with caching_in(tmp_path):
        assert prepared.validation_bytes(8, 4).tolist() == wanted
        assert replace(prepared, task=gone).validation_bytes(8, 4).tolist() == wanted
    assert replace(prepared, task=None).validation_bytes(8, 4) is None


def test_the_share_of_unknown_tokens_is_that_of_the_training_text(prepared):
    tokens = prepared.store.split("train").tokens
    assert prepared.unknown_share() == 0
    letter = int(tokens[0])
    ids = replace(prepared.vocabulary.token_ids, unk=letter)
    vocabulary = SentencePieceVocabulary(prepared.vocabulary.path.read_bytes(), ids, prepared.vocabulary.path)
    assert replace(prepared, vocabulary=vocabulary).unknown_share() == np.sum(tokens == letter) / len(tokens) > 0


def test_the_second_start_does_nothing_and_imports_nothing_heavy(prepared, folder):
    program = (
        "import sys\n"
        "from mixlm.data.dataset import Dataset\n"
        "from mixlm.data.tasks import TextFiles, TextTask\n"
        "from mixlm.data.vocabulary import TrainedSentencePiece\n"
        f"source = TextFiles({str(folder / 'texts')!r}, 0.1)\n"
        "task = TextTask('texts', source, TrainedSentencePiece(vocab_size=1000))\n"
        f"data = Dataset(task, cache_dir={str(folder / 'cache')!r}).prepare()\n"
        "data.train(64, 0).block(0)\n"
        "data.validation(64)\n"
        "print(data.summary.fingerprint, sorted({'tensorflow', 'seqio', 'jax', 'grain', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == [f"{prepared.summary.fingerprint} []", ""]
    assert done.stderr == ""


FIRST_START = """
import sys
from pathlib import Path
from mixlm.data.dataset import Dataset
from mixlm.data.sources.jsonl import JsonLines
from mixlm.data.sources.sotu import SotU
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import SentencePieceFile, TrainedSentencePiece

texts, cache = sys.argv[1], sys.argv[2]
trained = TrainedSentencePiece(vocab_size=400)
first = Dataset(TextTask("quiet", TextFiles(texts + "/00.txt"), trained), cache_dir=cache).prepare()
Path(texts + ".jsonl").write_text('{"text": "one"}\\n{"text": "two"}\\n{"text": "three"}')
model = SentencePieceFile(str(first.vocabulary.path), bos=3)
for source in (JsonLines(texts + ".jsonl", validation_fraction=0.3), SotU()):
    Dataset(TextTask(type(source).__name__, source, model, add_bos=True), cache_dir=cache).prepare()
"""
HEAVY = {"tensorflow", "tensorflow_datasets", "seqio", "t5", "pandas"}


def test_the_first_start_is_quiet_and_needs_no_tensorflow(folder):
    program = FIRST_START + f"assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)"
    arguments = [str(folder / "texts"), str(folder / "cache")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["Training", *["Tokenising"] * 3]


def test_explaining_a_recipe_of_text_needs_no_tensorflow(corpus, tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(places.TESTS)!r})
from support.small_run import recipe
from mixlm.training.run import explain
explain(recipe({str(corpus)!r}, {str(tmp_path / "run")!r}), lambda line: None)
assert "jax" in sys.modules and not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)
"""
    environment = {**os.environ, "MIXLM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def test_unique_tokens_cut_the_training_set_alone(prepared, folder):
    cut = dataset(folder, unique_tokens=20_000).prepare(pytest.fail)
    assert cut.summary.tokens == prepared.summary.tokens
    assert 0 < cut.summary.unique_tokens <= 20_000 < prepared.summary.unique_tokens
    repeated = cut.train(32, seed=1)
    assert (repeated.num_tokens, repeated.num_documents) == (cut.summary.unique_tokens, cut.summary.unique_documents)
    with pytest.raises(UserError, match=r"UNIQUE_TOKENS = 10 .* smallest possible"):
        dataset(folder, unique_tokens=10).prepare(pytest.fail)


def test_a_damaged_store_is_made_again_with_a_note(prepared, folder):
    path = prepared.store.folder / "train.tokens"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    notes: list[str] = []
    dataset(folder).prepare(notes.append)
    assert path.read_bytes() == whole
    assert str(path) in notes[0]


def test_a_cache_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    task = dataset(folder).task
    with pytest.raises(UserError, match=r"cache folder .*file.* MIXLM_CACHE"):
        Dataset(task, cache_dir=str(tmp_path / "file")).prepare(lambda line: None)


def test_the_cache_is_where_the_environment_says(folder, monkeypatch, prepared):
    monkeypatch.setenv("MIXLM_CACHE", str(folder / "cache"))
    assert Dataset(dataset(folder).task).prepare(pytest.fail).store.folder == prepared.store.folder


def repeated_numbers(size=997, block_length=5) -> Repeated:
    lengths = [size // 2, size - size // 2]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Repeated(StoreSplit(np.arange(size, dtype=np.uint16), offsets, 0), block_length, seed=3)


@settings(max_examples=50, deadline=None)
@given(step=st.integers(0, 10**9), processes=st.integers(1, 8), rows=st.integers(1, 4))
def test_processes_hold_the_rows_of_one_batch(step, processes, rows):
    repeated, size = repeated_numbers(), processes * rows
    whole = Batches(repeated, size).batch(step)["tokens"]
    np.testing.assert_array_equal(whole, [repeated.block(step * size + row) for row in range(size)])
    parts = [Batches(repeated, size, process, processes).batch(step)["tokens"] for process in range(processes)]
    assert all(part.shape == (rows, 5) and part.dtype == np.int32 for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("start", [0, 7, 10**6])
def test_iterating_is_taking_batch_after_batch(start):
    batches = Batches(repeated_numbers(), 8, process_index=1, process_count=2)
    threads = set(threading.enumerate())
    walk = batches.iterate(start)
    for expected in range(start, start + 30):
        step, batch = next(walk)
        assert step == expected
        np.testing.assert_array_equal(batch["tokens"], batches.batch(step)["tokens"])
    walk.close()
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=5)
    assert set(threading.enumerate()) <= threads, "a reading thread outlives the walk"


@pytest.mark.parametrize(("rows", "index", "count"), [(10, 0, 4), (8, 4, 4), (0, 0, 1), (8, -1, 2)])
def test_batches_that_cannot_be_shared_are_refused(rows, index, count):
    with pytest.raises(UserError, match=r"BATCH_SIZE|process"):
        Batches(repeated_numbers(), rows, index, count)


@pytest.fixture
def clean_gin():
    yield
    gin.clear_config()


def from_gin(name: str, *bindings: str) -> Dataset:
    gin.clear_config()
    gin.add_config_file_search_path(str(GIN.parent))
    gin.parse_config_files_and_bindings([str(GIN / name)], list(bindings))
    return gin.query_parameter("%DATASET").scoped_configurable_fn()


def test_pieces_of_messages_hold_the_same_paragraphs_in_order():
    from mixlm.data.sources.sotu import pieces

    whole, cut = SotU(), SotU(2000)
    message, found = next(whole.documents("validation")), cut.documents("validation")
    taken = list(itertools.islice(found, len(list(pieces(message, 2000)))))
    assert "\n\n".join(taken) == message
    assert all(len(piece.encode()) >= 2000 for piece in taken[:-1])
    assert all(len(piece.rpartition("\n\n")[0].encode()) < 2000 for piece in taken)
    assert cut.fingerprint() != whole.fingerprint() and repr(cut) == repr(whole)
    with pytest.raises(UserError, match="above 0, or None, not 0"):
        SotU(0)


def test_sotu_gin(clean_gin):
    bindings = ("DOCUMENT_BOS = False", "VOCAB_SIZE = 4096", "UNIQUE_TOKENS = 1000000", "CACHE_DIR = 'here'")
    built = from_gin("sotu.gin", *bindings)
    assert built == Dataset(TextTask("sotu", SotU(), TrainedSentencePiece(vocab_size=4096)), 1_000_000, "here")
    assert hash(built) == hash(from_gin("sotu.gin", *bindings))


def test_text_gin(clean_gin):
    built = from_gin("text.gin", "DOCUMENT_BOS = False", "TEXT = 'book.txt'", "VALIDATION_FRACTION = 0.1")
    assert built == Dataset(TextTask("text", TextFiles("book.txt", 0.1), TrainedSentencePiece(vocab_size=1024)))
    with pytest.raises(UserError, match=r"--gin\.TEXT=FILE_OR_FOLDER"):
        from_gin("text.gin", "DOCUMENT_BOS = False", "TEXT = ''").prepare()
