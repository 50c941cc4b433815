"""A streamed corpus gives the tokens that a store would hold, in the source's order, at any step and again after it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.data.dataset import Dataset
from mixlm.data.loader.batches import Batches
from mixlm.data.loader.epochs import sequential
from mixlm.data.loader.streaming import Streamed, StreamedData
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.recipe import Recipe


def streamed(lists: list[list[int]], block_length: int) -> Streamed:
    return Streamed(lambda: iter([np.asarray(tokens, np.int64) for tokens in lists]), block_length, "a text")


@settings(max_examples=60, deadline=None)
@given(
    lists=st.lists(st.lists(st.integers(1, 99), max_size=9), min_size=1, max_size=6).filter(any),
    block_length=st.integers(1, 12),
    asked=st.lists(st.integers(0, 40), min_size=1, max_size=8),
)
def test_a_block_is_its_place_in_the_text_without_end_however_it_is_asked_for(lists, block_length, asked):
    once = [token for tokens in lists for token in tokens]
    endless = once * (41 * block_length // len(once) + 1)
    walk = streamed(lists, block_length)
    found = walk.blocks(np.asarray(asked))
    assert found.dtype == np.int32
    assert found.tolist() == [endless[block_length * index : block_length * (index + 1)] for index in asked]


@pytest.mark.parametrize("start", [0, 9])
def test_batches_of_several_processes_and_of_a_resume_are_those_of_one(start):
    lists = [list(range(1, 8)), list(range(8, 30)), [30]]
    whole = streamed(lists, 5).blocks(np.arange(120))
    for process in range(2):
        walk = Batches(streamed(lists, 5), 4, process, 2).iterate(start)
        for step in range(start, start + 12):
            number, batch = next(walk)
            first = 4 * step + 2 * process
            assert number == step
            np.testing.assert_array_equal(batch["tokens"], whole[first : first + 2])
        walk.close()


def test_the_epoch_is_known_from_the_end_of_the_first_pass_on():
    walk = streamed([[1] * 10, [2] * 10], block_length=4)
    walk.blocks(np.arange(2))
    assert walk.figures(1, 2) == {"tokens": 8, "set": "a text"}
    walk.blocks(np.arange(12))
    assert "epoch" not in walk.figures(2, 2)
    assert walk.figures(6, 2) == {"tokens": 48, "set": "a text", "epoch": 2.4}


def dataset(source: TextFiles, cache: Path, **changes: object) -> Dataset:
    task = TextTask("corpus", source, TrainedSentencePiece(vocab_size=112, sentinels=20))
    return Dataset(task, cache_dir=str(cache), **changes)


@pytest.fixture(autouse=True)
def quiet():
    yield


def test_a_stream_is_what_the_store_would_hold_and_stores_nothing(corpus, tmp_path):
    said: list[str] = []
    data = dataset(TextFiles(str(corpus)), tmp_path / "cache", stream=True).prepare(said.append)
    assert isinstance(data, StreamedData)
    found = data.train(64, seed=0).blocks(np.arange(1500))
    validation, rows = data.validation(64), data.validation_rows(64, 9)
    assert not (tmp_path / "cache" / "stores").exists()
    assert said[-1].startswith("Streaming corpus: nothing is stored, ") and len(said) == 2
    stored = dataset(TextFiles(str(corpus)), tmp_path / "cache").prepare(print)
    tokens = stored.store.split("train").tokens
    assert 2 * len(tokens) > found.size > len(tokens), "the text should end once in this test"
    np.testing.assert_array_equal(found.ravel(), np.tile(tokens, 2)[: found.size])
    held_out = sequential(stored.store.split("validation"), 64)
    np.testing.assert_array_equal(validation, held_out[:256])
    np.testing.assert_array_equal(rows, held_out[np.arange(9) % len(held_out)])
    assert data.train(64, 0).fingerprint != stored.train(64, 0).fingerprint
    assert data.vocabulary.fingerprint == stored.vocabulary.fingerprint


@dataclass(frozen=True)
class Turning(TextFiles):
    """Text that was whole when its vocabulary was trained, and is no longer."""

    def documents(self, split):
        yield next(super().documents(split))
        for path in Path(self.path).glob("*.txt"):
            path.write_bytes(b"a caf\xe9")
        yield from TextFiles(self.path).documents(split)


def test_text_at_fault_is_told_in_our_words_while_it_is_streamed(tmp_path):
    for number in range(3):
        (tmp_path / f"0{number}.txt").write_text("the farmer sells a boat in the harbour " * (9 + number))
    vocabulary = TrainedSentencePiece(vocab_size=33, sentinels=10)
    data = Dataset(
        TextTask("turning", TextFiles(str(tmp_path)), vocabulary), cache_dir=str(tmp_path / "c"), stream=True
    )
    made = data.prepare(lambda line: None)
    turning = StreamedData(TextTask("turning", Turning(str(tmp_path)), vocabulary), made.vocabulary, "text")
    with pytest.raises(UserError, match=r"^The text file '[^']*0\d\.txt' is not UTF-8: byte 5 \(0xe9\)"):
        turning.train(8, 0).blocks(np.arange(1000))


def test_what_a_stream_cannot_do_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match=r"^UNIQUE_TOKENS needs a token store, and STREAM = True makes none: give one"):
        dataset(TextFiles(str(corpus)), tmp_path, stream=True, unique_tokens=100)
    data = dataset(TextFiles(str(corpus)), tmp_path, stream=True).prepare(lambda line: None)
    with pytest.raises(UserError, match=r"^EPOCHS = 3 need a token store, and STREAM = True makes none: give TRAIN_S"):
        data.train(8, 0, epochs=3)
    with pytest.raises(UserError, match=r"^FREQUENCY_BANDS need a token store"):
        data.token_counts()
    with pytest.raises(UserError, match=r"validation split holds \d+ tokens, less than one block of 99999;"):
        data.validation(99_999)
    with pytest.raises(UserError, match=r"holds no tokens"):
        streamed([[], []], 3).blocks(np.arange(1))


@pytest.mark.parametrize("name", ["sotu", "text", "jsonl", "tfrecord", "c4", "wikipedia", "seqio_task"])
def test_the_macro_reaches_every_data_file_and_a_run_of_before_stays_the_one_it_was(name):
    flags = ["--gin_file=spactor.gin", f"--gin_file=data/{name}.gin"]
    plain = configured(parse_flags(flags, ""), Recipe)
    stream = configured(parse_flags([*flags, "--gin.STREAM=True"], ""), Recipe)
    assert (plain.dataset.stream, stream.dataset.stream) == (False, True)
    assert "stream" not in plain.identity()["dataset"]
