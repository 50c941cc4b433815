"""The store gives back what was written, is written once or not at all, and damage never goes unseen."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import both, build, built, documents, from_number

from mixlm.data.store import journal, token_store
from mixlm.errors import UserError


def opened(folder: Path, log=print, splits=None) -> token_store.TokenStore:
    def unwanted():
        raise AssertionError("a whole store is built again")

    return token_store.open_or_build(folder, splits or unwanted, 8192, "text", "vocabulary", log)


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


def rewrite(path: Path, change) -> None:
    """Changes a manifest, as one who knows how its checksum is made would."""
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    change(manifest)
    path.write_text(json.dumps({**manifest, "checksum": token_store._checksum(manifest)}))


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
        token_store.TokenStore.open(folder)

    notes: list[str] = []
    again = opened(folder, notes.append, both)
    assert again.split("train").tokens.tolist() == [5, 6, 7, 1, 2, 3, 4, 8191]
    assert len(notes) == 1 and str(folder) in notes[0]
    assert [path.name for path in tmp_path.iterdir()] == ["s"], "scratch folders are left behind"


def test_a_large_store_checks_sizes_at_opening_and_sums_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr(token_store, "VERIFY_BYTES", 0)
    built(tmp_path / "s")
    flip_a_bit(tmp_path / "s" / "train.tokens")
    damaged = token_store.TokenStore.open(tmp_path / "s")
    with pytest.raises(UserError, match=r"train\.tokens"):
        damaged.verify()
    truncate(tmp_path / "s" / "train.tokens")
    with pytest.raises(UserError, match=r"train\.tokens"):
        token_store.TokenStore.open(tmp_path / "s")


@pytest.mark.parametrize("key", ["fingerprint", "vocabulary_fingerprint", "version"])
def test_a_store_of_other_data_is_refused(tmp_path, key):
    built(tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    rewrite(path, lambda manifest: manifest.update({key: 0}))
    with pytest.raises(UserError, match="other data"):
        token_store.TokenStore.open(tmp_path / "s", "text", "vocabulary")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def broken_off(made: list[token_store.Tokenized], at: int, error: BaseException) -> token_store.Documents:
    """The documents as far as number `at`, where something happens."""

    def from_number(first: int):
        for number in range(first, len(made)):
            if number == at:
                raise error
            yield made[number]

    return from_number


def test_a_builder_that_fails_at_once_leaves_nothing(tmp_path):
    splits = {"train": broken_off(documents(), 2, RuntimeError("the power went out"))}
    with pytest.raises(RuntimeError, match="power"):
        build(tmp_path / "s", splits)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25, deadline=None)
@given(
    lists=st.lists(st.lists(st.integers(0, 8191), max_size=6), min_size=1, max_size=30),
    stops=st.lists(st.tuples(st.sampled_from(["train", "validation"]), st.integers(0, 29)), max_size=4),
    part=st.integers(1, 100),
    supervised=st.booleans(),
)
def test_a_build_that_is_broken_off_goes_on_and_comes_out_the_same(tmp_path_factory, lists, stops, part, supervised):
    folder = tmp_path_factory.mktemp("stores")
    made = [
        token_store.Tokenized(np.asarray(tokens, np.int32), len(tokens), len(tokens) // 2 if supervised else None)
        for tokens in lists
    ]
    splits = {"train": from_number(made), "validation": from_number(made[::-1])}
    whole = contents(build(folder / "whole", splits).folder)
    asked: list[tuple[str, int]] = []

    def noted(name: str, documents: token_store.Documents) -> token_store.Documents:
        def from_number(first: int):
            asked.append((name, first))
            yield from documents(first)

        return from_number

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "PART_BYTES", part)
        for name, at in stops:
            broken = {**splits, name: broken_off(list(splits[name](0)), at, OSError("no space left"))}
            with contextlib.suppress(OSError):
                build(folder / "stopped", {key: noted(key, documents) for key, documents in broken.items()})
    assert contents(build(folder / "stopped", splits).folder) == whole
    assert {path.name for path in folder.iterdir()} == {"whole", "stopped"}
    # What was on the disk was not made again.
    for name in splits:
        firsts = [first for asked_name, first in asked if asked_name == name]
        assert firsts == sorted(firsts)


def test_only_what_follows_the_last_whole_part_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PART_BYTES", 100)  # 20 bytes a document: a part is five of them
    made = documents([[number] * 6 for number in range(40)])
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "s", {"train": broken_off(made, 33, KeyboardInterrupt())})
    assert [path.name for path in tmp_path.iterdir()] == [".s.building"]
    asked: list[int] = []
    notes: list[str] = []
    built = build(tmp_path / "s", {"train": lambda first: asked.append(first) or made[first:]}, log=notes.append)
    assert asked == [30]
    assert notes == ["Going on after 30 documents that an earlier start had tokenised."]
    assert built.split("train").tokens.tolist() == [number for number in range(40) for _ in range(6)]


def a_pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_line_of_another_kind(path: Path) -> None:
    """A line with its checksum, but none that a builder writes."""
    if path.name == "journal.jsonl":
        path.write_text(path.read_text() + journal._line({"split": "train", "sums": {"train.tokens": 3}}))


@pytest.mark.parametrize("name", ["train.tokens", "train.offsets", "journal.jsonl"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink, a_pipe_instead, a_line_of_another_kind])
def test_damage_to_what_a_killed_build_left_is_seen(tmp_path, monkeypatch, name, damage):
    monkeypatch.setattr(journal, "PART_BYTES", 100)
    made = documents([[number] * 6 for number in range(40)])
    whole = contents(build(tmp_path / "whole", {"train": from_number(made)}).folder)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "s", {"train": broken_off(made, 33, KeyboardInterrupt())})
    damage(tmp_path / ".s.building" / name)
    assert contents(build(tmp_path / "s", {"train": from_number(made)}).folder) == whole


def test_what_another_text_had_left_is_not_taken_for_this_one_s(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PART_BYTES", 1)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "s", {"train": broken_off(documents([[1], [2], [3]]), 2, KeyboardInterrupt())})
    made = from_number(documents([[4], [5]]))
    other = token_store.open_or_build(tmp_path / "s", lambda: {"train": made}, 8192, "other text", "vocabulary", print)
    assert other.split("train").tokens.tolist() == [4, 5]


def test_text_at_fault_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PART_BYTES", 1)
    with pytest.raises(UserError, match="not UTF-8"):
        build(tmp_path / "s", {"train": broken_off(documents(), 3, UserError("book.txt is not UTF-8."))})
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from mixlm.data.store import journal, token_store

def documents(first):
    for number in range(first, 40):
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield token_store.Tokenized(np.full(6, number, np.int32), 12)

journal.PART_BYTES = 100
token_store.open_or_build(Path(sys.argv[1]), lambda: {"train": documents}, 8192, "text", "vocabulary")
"""


def test_a_build_that_is_killed_goes_on(tmp_path):
    made = documents([[number] * 6 for number in range(40)])
    whole = contents(build(tmp_path / "whole", {"train": from_number(made)}).folder)
    for at in (17, 33):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "s"), str(at)], capture_output=True)
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / "s").exists()
    # The lock file of a process that is no more holds nobody off.
    assert (tmp_path / ".s.lock").exists()
    notes: list[str] = []
    assert contents(build(tmp_path / "s", {"train": from_number(made)}, log=notes.append).folder) == whole
    assert notes == ["Going on after 30 documents that an earlier start had tokenised."]
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "s"}


def test_of_several_at_once_one_builds_and_the_others_wait_and_say_so(tmp_path):
    begun, go_on = threading.Event(), threading.Event()
    builders: list[int] = []
    notes: list[str] = []
    found: list[list[int]] = []

    def splits():
        builders.append(threading.get_ident())

        def slowly(first):
            begun.set()
            assert go_on.wait(timeout=30)
            yield from documents()[first:]

        return {"train": slowly}

    def say(line: str) -> None:
        notes.append(line)
        if len(notes) == 3:
            go_on.set()

    def work():
        made = token_store.open_or_build(tmp_path / "s", splits, 8192, "text", "vocabulary", say)
        found.append(made.split("train").tokens.tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    threads[0].start()
    assert begun.wait(timeout=30)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == [[5, 6, 7, 1, 2, 3, 4, 8191]] * 4
    assert len(builders) == 1
    assert notes == [f"Another process is building the token store {tmp_path / 's'}; waiting for it."] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_who_waits_for_a_builder_that_is_killed_builds(tmp_path):
    lock = tmp_path / ".s.lock"
    program = (
        "import os, signal, sys; from pathlib import Path; from mixlm.data.store.file_lock import exclusive\n"
        "with exclusive(Path(sys.argv[1]), print):\n"
        "    print('held', flush=True); sys.stdin.read(1); os.kill(os.getpid(), signal.SIGKILL)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, str(lock)], **pipes) as other:
        assert other.stdout.readline() == b"held\n"

        def say(line: str) -> None:
            if line.startswith("Another process"):
                other.stdin.write(b"x")
                other.stdin.flush()

        assert build(tmp_path / "s", both(), log=say).split("validation").tokens.tolist() == [9, 9]
    assert other.returncode == -signal.SIGKILL


def test_supervised_examples_keep_where_their_targets_begin(tmp_path):
    pairs = [([5, 6], [7]), ([], [1, 2]), ([3], [])]
    made = [token_store.Tokenized(np.asarray(a + b, np.int32), 9, len(a)) for a, b in pairs]
    split = build(tmp_path / "s", {"train": from_number(made)}).split("train")
    for number, (inputs, targets) in enumerate(pairs):
        first, middle, last = split.offsets[number], split.targets[number], split.offsets[number + 1]
        assert (split.tokens[first:middle].tolist(), split.tokens[middle:last].tolist()) == (inputs, targets)
    with pytest.raises(ValueError, match="others have none"):
        build(tmp_path / "t", {"train": from_number([*made, *documents()])})
    assert built(tmp_path / "u").split("train").targets is None


def test_a_store_whose_checksum_was_taken_out_is_not_whole(tmp_path):
    folder = built(tmp_path / "s").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) - {"checksum"} == {
        "version", "fingerprint", "vocabulary_fingerprint", "vocab_size", "dtype", "splits", "files"
    }  # fmt: skip
    whole = opened(folder).manifest
    del manifest["checksum"]
    # Numbers that nothing vouches for: the document's bytes are what bits per byte are divided by.
    manifest["splits"]["train"]["text_bytes"] = 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        token_store.TokenStore.open(folder)
    notes: list[str] = []
    assert opened(folder, notes.append, both).manifest == whole and len(notes) == 1


def with_an_entry(*keys, value):
    """A change of the entry that the keys lead to."""

    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        with_an_entry("files", value=[]),
        with_an_entry("files", "train.tokens", value=16),
        with_an_entry("files", "train.tokens", "bytes", value="16"),
        with_an_entry("files", "train.tokens", "sha256", value=None),
        with_an_entry("files", value={}),
        with_an_entry("splits", value=3),
        with_an_entry("splits", "train", value={}),
        with_an_entry("splits", "train", "tokens", value=7),
        with_an_entry("splits", "train", "documents", value=5),
        with_an_entry("splits", "train", "text_bytes", value=None),
        with_an_entry("dtype", value=["<u2"]),
        with_an_entry("dtype", value="<f4"),
    ],
)
def test_a_manifest_of_other_types_or_counts_is_damaged_whatever_its_checksum(tmp_path, change):
    path = built(tmp_path / "s").folder / "manifest.json"
    rewrite(path, change)
    with pytest.raises(UserError, match=r"manifest\.json is damaged\.$"):
        token_store.TokenStore.open(tmp_path / "s")


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '{"version": ' + "1" * 5000 + "}", "", "\0", None])
@pytest.mark.parametrize("name", ["manifest.json", "train.tokens"])
def test_a_store_that_is_no_json_or_holds_a_pipe_is_built_again(tmp_path, name, content):
    folder = built(tmp_path / "s").folder
    (folder / name).unlink()
    os.mkfifo(folder / name) if content is None else (folder / name).write_text(content)
    with pytest.raises(UserError):
        token_store.TokenStore.open(folder)
    assert opened(folder, lambda _: None, both).split("train").num_tokens == 8


def test_a_count_that_is_altered_is_seen(tmp_path):
    path = built(tmp_path / "s").folder / "manifest.json"
    path.write_text(path.read_text().replace('"text_bytes": 16', '"text_bytes": 17'))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        token_store.TokenStore.open(tmp_path / "s")


def test_the_builder_holds_one_document_at_a_time(tmp_path):
    size, count = 100_000, 40
    stream = (token_store.Tokenized(np.full(size, number, np.int32), size) for number in range(count))
    tracemalloc.start()
    built_store = build(tmp_path / "s", {"train": lambda first: stream})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert built_store.split("train").num_tokens == size * count
    assert peak < 6 * size * 4, "the corpus was held in memory"
