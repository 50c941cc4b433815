"""The store gives back what was written, is written once or not at all, and damage never goes unseen."""

import json
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.data import store
from mixlm.errors import UserError

DOCUMENTS = ([5, 6, 7], [], [1], [2, 3, 4, 8191])


def documents(lists=DOCUMENTS):
    return [store.Tokenized(np.asarray(tokens, np.int32), text_bytes=2 * len(tokens)) for tokens in lists]


def built(folder: Path, fingerprint="text", vocab_size=8192, lists=DOCUMENTS) -> store.TokenStore:
    splits = {"train": documents(lists), "validation": documents([[9, 9]])}
    return store.build(folder, splits, vocab_size, fingerprint, "vocabulary")


def opened(folder: Path, log=print, splits=None) -> store.TokenStore:
    def unwanted():
        raise AssertionError("a whole store is built again")

    return store.open_or_build(folder, splits or unwanted, 8192, "text", "vocabulary", log)


@settings(max_examples=25, deadline=None)
@given(
    lists=st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=20), max_size=12),
    vocab_size=st.sampled_from([2**16, 2**16 + 1]),
)
def test_what_was_written_is_read_back(tmp_path_factory, lists, vocab_size):
    folder = tmp_path_factory.mktemp("store") / "s"
    split = built(folder, vocab_size=vocab_size, lists=lists).split("train")
    assert split.tokens.dtype == (np.uint16 if vocab_size == 2**16 else np.uint32)
    assert split.offsets.dtype == np.int64
    assert split.num_documents == len(lists)
    assert split.text_bytes == 2 * sum(map(len, lists)) == 2 * split.num_tokens
    for number, tokens in enumerate(lists):
        assert split.tokens[split.offsets[number] : split.offsets[number + 1]].tolist() == tokens


def test_the_highest_id_of_each_width_survives_and_a_higher_one_is_refused(tmp_path):
    assert built(tmp_path / "a", vocab_size=2**16, lists=[[65535]]).split("train").tokens.tolist() == [65535]
    assert built(tmp_path / "b", vocab_size=2**17, lists=[[131071]]).split("train").tokens.tolist() == [131071]
    with pytest.raises(ValueError, match="65536"):
        built(tmp_path / "c", vocab_size=2**16, lists=[[65536]])


def test_a_whole_store_is_mapped_read_only_and_never_built_again(tmp_path):
    built(tmp_path / "s")
    split = opened(tmp_path / "s").split("train")
    assert isinstance(split.tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        split.tokens[0] = 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["train.tokens", "train.offsets", "validation.tokens", "manifest.json"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_damage_names_the_file_and_is_repaired_with_a_note(tmp_path, name, damage):
    folder = tmp_path / "s"
    built(folder)
    damage(folder / name)
    missing_store = name == "manifest.json" and damage is Path.unlink
    with pytest.raises(UserError, match=str(folder if missing_store else folder / name)):
        store.TokenStore.open(folder)

    notes: list[str] = []
    again = opened(folder, notes.append, lambda: {"train": documents(), "validation": documents([[9, 9]])})
    assert again.split("train").tokens.tolist() == [5, 6, 7, 1, 2, 3, 4, 8191]
    assert len(notes) == 1 and str(folder) in notes[0]
    assert [path.name for path in tmp_path.iterdir()] == ["s"], "scratch folders are left behind"


def test_a_large_store_checks_sizes_at_opening_and_sums_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "VERIFY_BYTES", 0)
    built(tmp_path / "s")
    flip_a_bit(tmp_path / "s" / "train.tokens")
    damaged = store.TokenStore.open(tmp_path / "s")
    with pytest.raises(UserError, match=r"train\.tokens"):
        damaged.verify()
    truncate(tmp_path / "s" / "train.tokens")
    with pytest.raises(UserError, match=r"train\.tokens"):
        store.TokenStore.open(tmp_path / "s")


@pytest.mark.parametrize("key", ["fingerprint", "vocabulary_fingerprint", "version"])
def test_a_store_of_other_data_is_refused(tmp_path, key):
    built(tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {key: 0}))
    with pytest.raises(UserError, match="other data"):
        store.TokenStore.open(tmp_path / "s", "text", "vocabulary")


def test_a_builder_that_fails_leaves_nothing(tmp_path):
    def failing():
        yield from documents()
        raise RuntimeError("the power went out")

    with pytest.raises(RuntimeError, match="power"):
        store.build(tmp_path / "s", {"train": failing()}, 8192, "text", "vocabulary")
    assert list(tmp_path.iterdir()) == []


def test_builders_at_once_are_harmless(tmp_path):
    barrier = threading.Barrier(4)
    found: list[list[int]] = []

    def work():
        def late():
            barrier.wait()  # all of them are in the middle of writing
            yield from documents()

        built_store = store.build(tmp_path / "s", {"train": late()}, 8192, "text", "vocabulary")
        found.append(built_store.split("train").tokens.tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == [[5, 6, 7, 1, 2, 3, 4, 8191]] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_the_builder_holds_one_document_at_a_time(tmp_path):
    size, count = 100_000, 40
    stream = (store.Tokenized(np.full(size, number, np.int32), size) for number in range(count))
    tracemalloc.start()
    built_store = store.build(tmp_path / "s", {"train": stream}, 8192, "text", "vocabulary")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert built_store.split("train").num_tokens == size * count
    assert peak < 6 * size * 4, "the corpus was held in memory"
