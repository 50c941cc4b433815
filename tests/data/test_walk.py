"""What of a folder is the user's text: no hidden names, linked folders once, regular files alone; the rest is said."""

import os
from pathlib import Path

import pytest

from mixlm.data.sources.auto import Text
from mixlm.data.sources.base import SPLITS
from mixlm.data.sources.jsonl import JsonLines
from mixlm.data.sources.kinds import kind_of
from mixlm.data.sources.text import TextFiles
from mixlm.data.sources.tfrecord import TFRecords
from mixlm.errors import UserError


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"The text of {name}, which is as long as it has to be.")
    return folder


def names(folder: Path, source=TextFiles) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in source(str(folder)).files()]


def test_hidden_names_and_what_systems_add_are_left_out(tmp_path):
    hidden = (".git/a/old.txt", ".secret.txt", "._1.txt", "__MACOSX/b/c.txt", "d/.ipynb_checkpoints/a.txt")
    put(tmp_path, "a.txt", "d/b.txt", *hidden)
    assert names(tmp_path) == ["a.txt", "d/b.txt"] and kind_of(str(tmp_path)) is TextFiles
    assert TextFiles(str(tmp_path)).notes() == [f"Not read in {str(tmp_path)!r}: 5 hidden."]
    # A folder that is named is meant, whatever its name.
    assert names(put(tmp_path / ".notes", "a.txt")) == ["a.txt"]


def test_endings_count_in_any_case(tmp_path):
    put(tmp_path / "text", "a.TXT", "b.Txt")
    put(tmp_path / "lines", "a.JSONL", "b.jsonl.GZ")
    put(tmp_path / "records", "a.TFRecord-00000-of-00002", "b.TFRECORD.GZ")
    for folder, source in (("text", TextFiles), ("lines", JsonLines), ("records", TFRecords)):
        assert kind_of(str(tmp_path / folder)) is source and len(names(tmp_path / folder, source)) == 2


def test_a_packed_ending_in_capitals_is_unpacked(tmp_path):
    import gzip

    (tmp_path / "a.JSONL.GZ").write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    assert set(JsonLines(str(tmp_path)).all_documents()) == {"one", "two"}


@pytest.mark.parametrize("source", [TextFiles, Text])
def test_what_is_not_read_is_said_in_one_line(tmp_path, source):
    put(tmp_path, "a.txt", "b.txt", "c.md", "d/e.MD", "f.jsonl.xz", "README", "g.docx")
    os.mkfifo(tmp_path / "h.txt")
    (line,) = source(str(tmp_path)).notes()
    said = "1 without an ending, 1 .docx, 1 .jsonl.xz, 2 .md, "
    assert line == f"Not read in {str(tmp_path)!r}: {said}{str(tmp_path / 'h.txt')!r}, which is a pipe."
    assert source(str(put(tmp_path / "all", "a.txt"))).notes() == []
    assert source(str(tmp_path / "a.txt")).notes() == []


def test_folders_behind_links_are_read_once(tmp_path):
    folder, elsewhere = put(tmp_path / "texts", "a.txt", "z/b.txt"), put(tmp_path / "other", "c.txt", "deep/d.txt")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "a_again").symlink_to(folder / "z")
    (elsewhere / "back").symlink_to(folder / "z")
    assert names(folder) == ["a.txt", "linked/c.txt", "linked/deep/d.txt", "z/b.txt"]
    assert TextFiles(str(folder)).notes() == [f"Not read in {str(folder)!r}: 2 linked folders read already."]
    (tmp_path / "link").symlink_to(folder)
    assert names(tmp_path / "link") == names(folder)


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_into_a_folder_above_is_a_sentence(tmp_path, target):
    put(tmp_path, "texts/deep/a.txt")
    (tmp_path / "texts" / "deep" / "loop").symlink_to(target)
    for look in (kind_of, lambda path: TextFiles(path).files()):
        with pytest.raises(
            UserError, match=r"^The folder '[^']*loop' is a link to '[^']*', which it lies in: [^\n]*\.$"
        ):
            look(str(tmp_path / "texts"))


@pytest.mark.parametrize(("target", "words"), [("gone.txt", "to 'gone.txt', which is not there"), ("b.txt", "back to")])
def test_a_link_that_leads_nowhere_is_a_sentence_where_it_would_be_read(tmp_path, target, words):
    put(tmp_path, "a.txt")
    (tmp_path / "b.txt").symlink_to(target)
    for look in (kind_of, lambda path: TextFiles(path).files()):
        with pytest.raises(UserError, match=rf"^'[^']*b\.txt' is a link [^\n]*{words}[^\n]*\.$"):
            look(str(tmp_path))
    (tmp_path / "b.txt").rename(tmp_path / "b.md")
    assert names(tmp_path) == ["a.txt"] and "linked to what is not there" in TextFiles(str(tmp_path)).notes()[0]
    with pytest.raises(UserError, match=r"^There is no file|cannot be read"):
        TextFiles(str(tmp_path / "b.md")).files()


def test_a_name_that_is_no_utf_8_is_read_and_said(tmp_path):
    for number, name in enumerate([b"caf\xe9.txt", b"a\xff.txt", b"\xe9.md"]):
        with open(os.path.join(os.fsencode(tmp_path), name), "w") as file:
            file.write(f"Text number {number} is long enough.")
    source = TextFiles(str(tmp_path))
    assert len([text for split in SPLITS for text in source.documents(split)]) == 2
    assert source.fingerprint() != "" and source.notes()[0].encode()
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="is not UTF-8") as caught:
        list(source.all_documents())
    assert str(caught.value).encode()


@pytest.mark.parametrize("source", [TextFiles, JsonLines, TFRecords, Text])
def test_a_pipe_is_a_sentence_and_nobody_waits_for_it(tmp_path, source):
    os.mkfifo(tmp_path / "a.txt")
    for path in (str(tmp_path / "a.txt"), "/dev/zero"):
        text = source(path)
        for read in (text.documents, lambda split, text=text: [text.fingerprint()]):
            with pytest.raises(UserError, match=r"^'[^']*' is a (pipe|device), and only regular files are read\.$"):
                list(read("train"))
    with pytest.raises(UserError, match=r"which is a pipe\)\.$"):
        list(source(str(tmp_path)).documents("train"))


def test_a_name_that_no_disk_has_is_a_sentence(tmp_path):
    with pytest.raises(
        UserError, match=r"^TEXT '[^']*' cannot be used: a name in it has 300 bytes, and a file's has at most 255\.$"
    ):
        kind_of(str(tmp_path / ("x" * 300)))
    with pytest.raises(UserError, match=r"cannot be used: it holds a NUL character\.$"):
        kind_of("a\0b")


ZIP = b"PK\x03\x04\x14\x00\x00\x00plain words that somebody wrote" * 9


@pytest.mark.parametrize("content", [ZIP, b"words \xff\xfe words" * 9, "words".encode("utf-16") * 9])
def test_a_file_of_no_known_ending_is_text_only_if_it_is_utf_8(tmp_path, content):
    path = tmp_path / "a.docx"
    path.write_bytes(content)
    for look in (kind_of, lambda path: TextFiles(path).files()):
        with pytest.raises(
            UserError, match=r"^'[^']*a\.docx' is no UTF-8 text, and what is read besides ends in [^\n]*"
        ):
            look(str(path))
    with pytest.raises(UserError, match=r"holds no text: [^\n]* is not read \(1 \.docx\)\.$"):
        kind_of(str(tmp_path))
    # A character may be cut where the look ends.
    path.write_bytes(b"x" + "\u00e9".encode() * 2**15)
    assert kind_of(str(path)) is TextFiles


def test_a_file_without_a_size_is_called_empty_only_where_it_is(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"a\.txt' is empty\.$"):
        TextFiles(str(tmp_path / "a.txt")).files()
    with pytest.raises(UserError, match=r"'/proc/self/status' has no size, as files of /proc: copy it first\.$"):
        TextFiles("/proc/self/status").files()
