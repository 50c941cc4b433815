"""Files are read within bounds and without waiting, and written whole, through no link."""

import gzip
import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlm import files
from mixlm.errors import UserError


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=9), max_size=9), st.data())
def test_lines_are_cut_at_lf_cr_lf_and_cr_wherever_a_chunk_ends(texts, data):
    ends = [data.draw(st.sampled_from(["\n", "\r\n", "\r"])) for _ in texts]
    # CR before an empty line that ends in LF is one CR LF.
    ends = [end if not (end == "\r" and text == "") else "\r\n" for end, text in zip(ends, [*texts[1:], "."])]
    content = "".join(map(str.__add__, texts, ends))
    chunk = data.draw(st.integers(1, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_CHUNK_BYTES", chunk)
        raw = list(files.read_lines(io.BytesIO(content.encode()), "it"))
    assert b"".join(raw) == content.encode()
    assert [line.decode().rstrip("\r\n") for line in raw] == texts == files.split_lines(content)


def test_a_line_without_end_is_refused_before_it_is_in_memory(tmp_path):
    path = tmp_path / "a.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"short\n" + b"x" * 10_000_000)
    with gzip.open(path, "rb") as file, pytest.raises(UserError, match="Line 2 of it has more than 2,000,000 bytes"):
        list(files.read_lines(file, "it", limit=2_000_000))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 100_000, "nested more than 64"),
        ("[" * 65 + "]" * 65, "nested more than 64"),
        ("1" * 5000, "too many digits"),
        ("{", "is not JSON"),
        ("", "is not JSON"),
        (b"\xff", "not UTF-8"),
        ("[]", "is no JSON object"),
    ],
)
def test_json_that_cannot_be_held_is_one_sentence(text, sentence):
    with pytest.raises(UserError, match=f"It .*{sentence}"):
        files.parse_json(text, "It", dict)


def test_json_within_the_bounds_is_read():
    deep = '{"a": ' + "[" * 63 + "]" * 63 + "}"
    assert files.parse_json(deep, "It", dict) == json.loads(deep)


def test_only_regular_files_are_read_and_no_pipe_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device"), (tmp_path, "a folder")):
        with pytest.raises(UserError, match=f"is {kind}, and only regular"):
            files.read_bytes(path)
    with pytest.raises(UserError, match="No such file"):
        files.read_json(tmp_path / "missing")
    with pytest.raises(UserError, match=r"udcff.*No such file"):
        files.read_json(os.fsdecode(b"/missing/\xff"))


def test_a_byte_order_mark_is_no_text_and_a_wrong_byte_is_named(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfa")
    assert files.read_text(path) == "a"
    path.write_bytes(b"ab\xff")
    with pytest.raises(UserError, match="byte 2"):
        files.read_text(path)
    with pytest.raises(UserError, match="more than 2 bytes"):
        files.read_text(path, limit=2)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9), st.sampled_from("\0\ud800\udfff"))
def test_text_that_no_tokenizer_reads_is_refused_with_its_byte(before, fault):
    files.check_text(before, "It")
    with pytest.raises(UserError, match=rf"^It holds .* at byte {len(before.encode())}( in line|, which)"):
        files.check_text(f"{before}{fault}after", "It")
    if fault == "\0":
        with pytest.raises(UserError, match=f"at byte {len(before.encode())}( in line|, which)"):
            files.decode(f"{before}{fault}after".encode(), "It")


def test_the_line_of_a_nul_is_named():
    with pytest.raises(UserError, match=r"a NUL character at byte 5 in line 3,"):
        files.decode(b"a\r\nb\n\0", "It")


def test_a_file_is_replaced_whole_or_not_at_all_and_links_are_not_followed(tmp_path):
    outside, path = tmp_path / "outside", tmp_path / "run" / "table.json"
    path.parent.mkdir()
    outside.write_text("kept")
    path.symlink_to(outside)
    with files.replacing(path) as file:
        file.write("new\n")
    assert (outside.read_text(), path.read_text(), path.is_symlink()) == ("kept", "new\n", False)
    with pytest.raises(KeyError), files.replacing(path, "wb") as file:
        file.write(b"half")
        raise KeyError
    assert path.read_text() == "new\n" and os.listdir(path.parent) == ["table.json"]


def test_lines_are_added_to_regular_files_alone(tmp_path):
    path, outside = tmp_path / "metrics", tmp_path / "outside"
    for _ in range(2):
        with files.open_append(path) as file:
            file.write("line\n")
    assert path.read_text() == "line\nline\n"
    outside.write_text("kept")
    (tmp_path / "link").symlink_to(outside)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(UserError, match="cannot be written"):
            files.open_append(tmp_path / name)
    assert outside.read_text() == "kept"
