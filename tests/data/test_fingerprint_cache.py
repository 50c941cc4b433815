"""Digests of files are cached: a file is read again if it has changed, and only then."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from mixlm.data.store import fingerprint_cache
from mixlm.errors import UserError


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """What this process has in memory is gone, as at a second start."""

    def forget():
        monkeypatch.setattr(fingerprint_cache, "_DIGESTS", {})

    forget()
    return forget


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The files that were read for their digest, in order."""
    found: list[str] = []
    real = hashlib.file_digest

    def noted(file, algorithm):
        found.append(Path(file.name).name)
        return real(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    return found


def write(path: Path, content: bytes, age: float = 60.0) -> Path:
    """A file that has not been touched for a while, as far as its own times say."""
    path.write_bytes(content)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


@pytest.fixture
def old(monkeypatch):
    """Files count as settled at once: nobody can set the time of an inode's change."""
    monkeypatch.setattr(fingerprint_cache, "SETTLED_SECONDS", -1.0)


def digests(folder: Path, files: list[Path]) -> list[str]:
    with fingerprint_cache.caching_in(folder / "records"):
        return fingerprint_cache.sha256_of(files)


def plain(files: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def test_a_second_start_reads_nothing_and_only_what_has_changed_is_read_again(tmp_path, reads, new_process, old):
    (tmp_path / "texts").mkdir()
    files = [write(tmp_path / "texts" / name, name.encode() * 9) for name in "abc"]
    assert digests(tmp_path, files) == plain(files)
    assert digests(tmp_path, files) == plain(files)
    assert reads == ["a", "b", "c"]
    new_process()
    assert digests(tmp_path, files) == plain(files)
    assert reads == ["a", "b", "c"]
    write(files[1], b"changed, ")
    new_process()
    assert digests(tmp_path, files) == plain(files)
    assert reads == ["a", "b", "c", "b"]


@pytest.mark.parametrize("how", ["written over", "replaced", "renamed onto", "older time"])
def test_a_change_of_the_same_size_and_time_is_noticed(tmp_path, new_process, old, how):
    path = write(tmp_path / "a.txt", b"before")
    facts = path.stat()
    assert digests(tmp_path, [path]) == plain([path])
    if how == "written over":
        path.write_bytes(b"behind")
    elif how == "replaced":
        path.unlink()
        path.write_bytes(b"behind")
    elif how == "renamed onto":
        os.replace(write(tmp_path / "b.txt", b"behind"), path)
    else:
        path.write_bytes(b"behind")
    time.sleep(0.02)  # more than a tick of the file system's clock
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns - (10**9 if how == "older time" else 0)))
    new_process()
    assert digests(tmp_path, [path]) == plain([path])


def test_a_fresh_file_is_not_cached(tmp_path, reads, new_process):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    digests(tmp_path, [path])
    digests(tmp_path, [path])
    assert reads == ["a.txt", "a.txt"]
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("damage", [b"", b"[]", b"\xff\xfe", b'{"a": 1}', "flip", "cut"])
def test_a_damaged_record_is_as_good_as_none(tmp_path, reads, new_process, old, damage):
    path = write(tmp_path / "a.txt", b"text")
    digests(tmp_path, [path])
    (record,) = (tmp_path / "records").iterdir()
    whole = record.read_bytes()
    if damage == "flip":
        place = whole.index(hashlib.sha256(b"text").hexdigest()[:10].encode())
        damage = whole[:place] + (b"0" if whole[place : place + 1] != b"0" else b"1") + whole[place + 1 :]
    elif damage == "cut":
        damage = whole[:-3]
    record.write_bytes(damage)
    new_process()
    assert digests(tmp_path, [path]) == plain([path])
    assert reads == ["a.txt", "a.txt"]
    assert record.read_bytes() == whole


def test_a_pipe_is_neither_a_record_nor_a_file_with_a_digest(tmp_path, reads, new_process, old):
    path = write(tmp_path / "a.txt", b"text")
    digests(tmp_path, [path])
    (record,) = (tmp_path / "records").iterdir()
    record.unlink()
    os.mkfifo(record)
    new_process()
    assert digests(tmp_path, [path]) == plain([path]) and record.is_file()
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "records"):
        with pytest.raises(UserError, match=f"{name}' is a (pipe|folder), and only regular files are read"):
            fingerprint_cache.sha256_of([tmp_path / name])


def test_without_a_folder_nothing_is_kept(tmp_path, old):
    path = write(tmp_path / "a.txt", b"text")
    assert fingerprint_cache.sha256_of([path]) == plain([path])
    assert fingerprint_cache.load_record("anything") is None
    fingerprint_cache.save_record("anything", 3)
    with fingerprint_cache.caching_in(tmp_path / "records"):
        assert fingerprint_cache.load_record("anything") is None
        fingerprint_cache.save_record("anything", {"a": [3]})
        assert fingerprint_cache.load_record("anything") == {"a": [3]}
        assert fingerprint_cache.load_record("another") is None
    assert fingerprint_cache.load_record("anything") is None


def test_a_folder_that_cannot_be_written_is_no_hindrance(tmp_path, old):
    (tmp_path / "records").write_text("a file")
    path = write(tmp_path / "a.txt", b"text")
    assert digests(tmp_path, [path]) == plain([path])
