"""Each checkpoint holds metrics.jsonl as it was at its step, within a bound."""

import gzip

import jax.numpy as jnp
import pytest

from mixlm.checkpoints import history
from mixlm.checkpoints.history import HISTORY, Record, read_history, write_history
from mixlm.checkpoints.saving import Checkpoints


def test_lines_that_are_added_later_are_not_in_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert Record.until_now(path) is None
    path.write_bytes(b"one\ntwo\n")
    record = Record.until_now(path)
    path.write_bytes(b"one\ntwo\nthree\n")
    write_history(tmp_path, record)
    assert read_history(tmp_path) == b"one\ntwo\n"


@pytest.mark.parametrize("bound", [0, 1, 3, 4, 5, 8, 9, 12, 99])
def test_the_newest_whole_lines_within_the_bound_are_held(tmp_path, monkeypatch, bound):
    content = [b"one\n", b"two\n", b"six\n"]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(content))
    monkeypatch.setattr(history, "MAX_BYTES", bound)
    write_history(tmp_path, Record.until_now(path))
    assert read_history(tmp_path) == b"".join(content[3 - min(bound // 4, 3) :])


@pytest.mark.parametrize("damage", [lambda content: content[:9], lambda _: b"", lambda _: b"no gzip", None])
def test_a_damaged_copy_is_none(tmp_path, damage):
    (tmp_path / "metrics.jsonl").write_bytes(b"one\n" * 100)
    write_history(tmp_path, Record.until_now(tmp_path / "metrics.jsonl"))
    whole = (tmp_path / HISTORY).read_bytes()
    (tmp_path / HISTORY).unlink()
    if damage is not None:
        (tmp_path / HISTORY).write_bytes(damage(whole))
    assert read_history(tmp_path) == b""


def test_no_more_is_read_than_the_bound(tmp_path, monkeypatch):
    (tmp_path / HISTORY).write_bytes(gzip.compress(bytes(2**20)))
    monkeypatch.setattr(history, "MAX_BYTES", 1000)
    assert len(read_history(tmp_path)) == 1000


def test_a_checkpoint_holds_what_was_logged_until_it(tmp_path):
    record, checkpoints = tmp_path / "metrics.jsonl", Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (10, 20, 30):
        with record.open("a") as file:
            file.write(f"{step}\n")
        checkpoints.save(step, {"kernel": jnp.full(3, step)}, note={"lines": step // 10}, record=record)
    checkpoints.wait()
    # It is one of the checkpoint's files, and no older version stumbles over it.
    content = bytearray((tmp_path / "checkpoints" / "30" / HISTORY).read_bytes())
    assert list(checkpoints.histories(25)) == [b"10\n20\n", b"10\n"]
    assert list(checkpoints.histories(30)) == [b"10\n20\n30\n", b"10\n20\n", b"10\n"]
    assert checkpoints.note(20) == {"lines": 2}
    content[-1] ^= 1
    (tmp_path / "checkpoints" / "30" / HISTORY).write_bytes(content)
    assert checkpoints.whole() == 20
    checkpoints.close()
