"""A checkpoint is whole by its manifest alone: one that says nothing of a file says that it is not whole."""

import json
import os

import pytest

from mixlm.checkpoints.checksums import find_corruption, write_manifest


@pytest.fixture
def step(tmp_path):
    """A checkpoint's folder as far as the manifest goes."""
    (tmp_path / "default" / "d").mkdir(parents=True)
    for name, content in (("default/_METADATA", b"{}"), ("default/d/1", b"array"), ("figures.json", b"{}")):
        (tmp_path / name).write_bytes(content)
    write_manifest(tmp_path)
    (tmp_path / "_CHECKPOINT_METADATA").write_text('{"custom_metadata": {}}')
    return tmp_path


def test_what_is_written_is_whole(step):
    assert find_corruption(step) is None
    (step / "commit_success.txt").write_text("Orbax's, later")
    (step / "default" / ".nfs0001").write_text("the file system's")
    assert find_corruption(step) is None


MANIFESTS = [
    "{}",
    "[]",
    "null",
    '"text"',
    '{"default/d/1": 5}',
    '{"default/d/1": "ab"}',
    '{"default/d/1": [5]}',
    '{"default/d/1": ["5", 7]}',
    '{"default/d/1": [5.0, 7]}',
    '{"default/d/1": [true, 7]}',
    '{"default/d/1": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"default/d/1": [5, ' + "9" * 5000 + "]}",
    '{"../outside": [5, 7]}',
]


@pytest.mark.parametrize("text", MANIFESTS, ids=range(len(MANIFESTS)))
@pytest.mark.parametrize("lengths_only", [True, False])
def test_an_odd_manifest_is_corruption(step, text, lengths_only):
    (step / "checksums.json").write_text(text)
    assert isinstance(find_corruption(step, lengths_only), str)


def test_nothing_is_no_checkpoint(tmp_path):
    (tmp_path / "_CHECKPOINT_METADATA").write_text("{}")
    (tmp_path / "checksums.json").write_text("{}")
    assert find_corruption(tmp_path) == "checksums.json names no file"


@pytest.mark.parametrize("name", ["default/_METADATA", "default/d/1", "figures.json"])
@pytest.mark.parametrize("lengths_only", [True, False])
def test_a_file_that_the_manifest_leaves_out_is_corruption(step, name, lengths_only):
    sums = json.loads((step / "checksums.json").read_text())
    del sums[name]
    (step / "checksums.json").write_text(json.dumps(sums))
    assert find_corruption(step, lengths_only) == f"{name} is not in checksums.json"


NOTES = [
    "[]",
    "null",
    "{",
    "\udcff",
    '{"custom_metadata": "text"}',
    '{"custom_metadata": []}',
    '{"init_timestamp_nsecs": "1"}',
    '{"commit_timestamp_nsecs": {}}',
    '{"item_handlers": 7}',
    '{"metrics": 1.0}',
    '{"performance_metrics": "fast"}',
]


@pytest.mark.parametrize("text", NOTES, ids=range(len(NOTES)))
def test_a_damaged_note_is_corruption(step, text):
    (step / "_CHECKPOINT_METADATA").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert find_corruption(step).startswith("_CHECKPOINT_METADATA is ")


def test_a_note_may_lack_anything(step):
    (step / "_CHECKPOINT_METADATA").write_text('{"metrics": null, "another": 1}')
    assert find_corruption(step) is None


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "checksums.json", "default/d/1", "default/d/more", "more"])
def test_a_pipe_is_corruption_and_is_not_waited_for(step, name):
    (step / name).unlink(missing_ok=True)
    os.mkfifo(step / name)
    assert isinstance(find_corruption(step), str)
