"""Lines and documents have a bound, and what is no text is one sentence that names file and line."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from mixlm.data.sources.base import SPLITS, Source
from mixlm.data.sources.jsonl import JsonLines
from mixlm.data.sources.text import TextFiles
from mixlm.data.sources.tfds import Tfds
from mixlm.data.sources.tfrecord import TFRecords, masked_crc32c
from mixlm.errors import UserError


def both(source: Source) -> dict[str, list[str]]:
    return {split: list(source.documents(split)) for split in SPLITS}


def test_a_line_of_a_gigabyte_in_a_small_file_is_a_sentence_and_no_memory(tmp_path):
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"text": "one"}\n{"text": "')
        for _ in range(64):
            file.write(b"a" * 2**20)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"^Line 2 of '[^']*bomb\.jsonl\.gz' has more than 1,000,000 bytes, [^\n]*\.$"):
        both(JsonLines(str(path), max_document_bytes=10**6))
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["line.txt", "line.TXT", "line.md"])
def test_a_text_without_line_ends_is_bounded(tmp_path, name):
    (tmp_path / name).write_text("word " * 400)
    assert both(TextFiles(str(tmp_path / name), max_document_bytes=2000))
    words = r"^Line 1 of '[^']*' has more than 1,999 bytes, which is more than MAX_DOCUMENT_BYTES allows\.$"
    with pytest.raises(UserError, match=words):
        both(TextFiles(str(tmp_path / name), max_document_bytes=1999))


def test_a_document_in_a_folder_is_bounded(tmp_path):
    for name, count in {"a": 10, "b": 400}.items():
        (tmp_path / f"{name}.txt").write_text(f"{name} word\n" * count)
    assert both(TextFiles(str(tmp_path), max_document_bytes=2800))
    for read in (both, lambda source: list(source.all_documents())):
        with pytest.raises(
            UserError, match=r"'[^']*b\.txt' is one document of more than 2,799 bytes, [^\n]* allows\.$"
        ):
            read(TextFiles(str(tmp_path), max_document_bytes=2799))


def test_a_document_in_a_kind_from_outside_is_bounded(tmp_path):
    class Words(JsonLines):
        def read(self, path):
            yield from ("one", "two" * 9)

    (tmp_path / "a.jsonl").touch()
    with pytest.raises(UserError, match=r"^Document 2 of '[^']*' has more than 26 bytes, [^\n]* allows\.$"):
        both(Words(str(tmp_path), max_document_bytes=26))
    assert len(list(Words(str(tmp_path), max_document_bytes=27).all_documents())) == 2


def record(content: bytes) -> bytes:
    head = len(content).to_bytes(8, "little")
    return head + masked_crc32c(head).to_bytes(4, "little") + content + masked_crc32c(content).to_bytes(4, "little")


@pytest.mark.parametrize("name", ["a.tfrecord", "a.tfrecord.gz"])
def test_the_length_of_a_record_is_bounded_before_it_is_read(tmp_path, name):
    head = (2**62).to_bytes(8, "little")
    content = record(b"one") + head + masked_crc32c(head).to_bytes(4, "little") + b"two"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(
        UserError, match=rf"^Record 2 of '[^']*{name}' has {2**62:,} bytes, which is more than [^\n]*\.$"
    ):
        both(TFRecords(str(tmp_path / name)))


def test_the_checksum_of_a_length_is_crc_32c():
    # The check value of CRC-32C (RFC 3720's polynomial), masked as TFRecord's format says.
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@pytest.mark.slow
def test_the_checksum_of_records_is_that_of_tensorflow(tmp_path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for content in (b"", b"one", bytes(range(256))):
            writer.write(content)
    expected = (tmp_path / "a.tfrecord").read_bytes()
    assert b"".join(map(record, (b"", b"one", bytes(range(256))))) == expected


@pytest.mark.parametrize("limit", [0, -1])
@pytest.mark.parametrize("source", [TextFiles, JsonLines, TFRecords, Tfds])
def test_a_bound_is_a_whole_number(limit, source):
    with pytest.raises(UserError, match=r"^MAX_DOCUMENT_BYTES is a whole number of bytes above 0, not [^\n]*\.$"):
        source("name", max_document_bytes=limit)


def test_the_bound_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    plain, bounded = JsonLines(str(tmp_path)), JsonLines(str(tmp_path), max_document_bytes=99)
    assert (repr(plain), plain.fingerprint()) == (repr(bounded), bounded.fingerprint())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[" * 10**5 + "]" * 10**5, "is nested more than 64 levels deep, so it is not read"),
        ('{"text": "a", "more": ' + "[" * 65 + "]" * 65 + "}", "is nested more than 64 levels deep, so it is not read"),
        ('{"text": "a", "number": ' + "1" * 5000 + "}", "holds a number of too many digits, so it is not read"),
        ('{"text": "a\\u0000b"}', "has a NUL, so it is no text"),
        ('{"text": "a\0b"}', "is not JSON: [^\\n]*"),
    ],
)
def test_json_that_cannot_be_read_names_its_line(tmp_path, line, words):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n\n' + line + "\n")
    with pytest.raises(UserError, match=rf"^Line 3 of '[^']*a\.jsonl' {words}\.$"):
        both(JsonLines(str(tmp_path)))


def test_a_nul_in_a_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("caf\u00e9 ".encode() * 30 + b"\n\0" + b"more " * 30)
    with pytest.raises(UserError, match=r"^The text file '[^']*a\.txt' has a NUL, its byte 181, so it is no text\.$"):
        both(TextFiles(str(tmp_path)))


ENDS = {"lf": "\n", "cr": "\r", "crlf": "\r\n"}
# Line ends for Python, and for nobody's text editor.
OTHERS = "\u2028\u0085\v\f\x1c"


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_every_line_end_gives_the_same_documents(tmp_path, end, many):
    lines = [line for number in range(80) for line in (f"Line {number} of{OTHERS}text. " + "word " * 20, "")]
    for name in {end, "lf"}:
        folder = tmp_path / name
        folder.mkdir()
        for file in range(1 + many):
            content = "\ufeff" + ENDS[name].join([f"File {file}."] * many + lines)
            (folder / f"{file}.txt").write_bytes(content.encode())
    found = both(TextFiles(str(tmp_path / end)))
    assert found == both(TextFiles(str(tmp_path / "lf")))
    documents = found["train"] + found["validation"]
    assert len(documents) == 2 if many else len(documents) > 30
    assert not any("\ufeff" in text or "\r" in text for text in documents)
    assert "Line 0 of text." in documents[0].splitlines()[many], "other ends are blanks, and cut no line"


def test_json_lines_end_at_line_ends_alone_and_may_begin_with_a_byte_order_mark(tmp_path):
    texts = [f"one{OTHERS}two", "three"]
    lines = "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    Path(tmp_path / "a.jsonl").write_bytes(("\ufeff" + lines).encode())
    assert set(JsonLines(str(tmp_path)).all_documents()) == {"one two", "three"}
