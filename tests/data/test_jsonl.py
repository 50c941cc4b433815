"""JSON lines are read in order and split by document, and what is wrong with them is one sentence."""

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.data.sources.base import SPLITS, Source
from mixlm.data.sources.jsonl import JsonLines
from mixlm.errors import UserError


def both(source: Source) -> dict[str, list[str]]:
    return {split: list(source.documents(split)) for split in SPLITS}


def write(path: Path, documents: list[str], feature: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"id": number, feature: text}) + "\n" for number, text in enumerate(documents))
    content = lines.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_a_folder_of_json_lines_is_read_in_order_and_split_by_document(tmp_path):
    documents = [f"Document {number} has words." for number in range(600)]
    names = [*(f"{letter}.jsonl" for letter in "abcd"), "e.jsonl.gz", "f/a.json.gz"]
    for number in (3, 0, 5, 1, 4, 2):
        write(tmp_path / names[number], documents[100 * number : 100 * (number + 1)])
    (tmp_path / "notes.txt").write_text("not read")
    source = JsonLines(str(tmp_path), validation_fraction=0.1)
    splits = both(source)
    held_out = set(splits["validation"])
    assert splits["train"] == [text for text in documents if text not in held_out]
    assert splits["validation"] == [text for text in documents if text in held_out]
    assert 30 < len(held_out) < 90
    # Neither the place of a document nor the other documents decide on its side.
    shuffled = [*documents, "One more."]
    random.Random(0).shuffle(shuffled)
    write(tmp_path / "other" / "all.jsonl", shuffled)
    assert set(both(JsonLines(str(tmp_path / "other" / "all.jsonl"), validation_fraction=0.1))["validation"]) in (
        held_out,
        held_out | {"One more."},
    )


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("ab \u00e9", max_size=8), min_size=1, max_size=12),
    fraction=st.sampled_from([1e-9, 0.05, 0.5, 0.999999]),
)
def test_every_document_is_on_one_side_and_no_side_is_empty(tmp_path_factory, texts, fraction):
    path = tmp_path_factory.mktemp("lines") / "few.jsonl"
    write(path, texts)
    source = JsonLines(str(path), validation_fraction=fraction)
    whole = [" ".join(text.split()) for text in texts if text.strip()]
    if len(set(whole)) < 2:
        with pytest.raises(UserError, match="fewer than two different documents"):
            both(source)
        return
    splits = both(source)
    found = [" ".join(text.split()) for split in SPLITS for text in splits[split]]
    assert sorted(found) == sorted(whole)
    assert splits["train"] and splits["validation"]
    assert not set(splits["train"]) & set(splits["validation"])


def test_other_features_and_half_characters_are_text(tmp_path):
    write(tmp_path / "a.jsonl", ["one", "two  words\r\n", "   ", "half \ud800 a character"], feature="body")
    (tmp_path / "b.jsonl").write_bytes(b'\n{"body": "three"}\n\n{"body": "four"}')
    splits = both(JsonLines(str(tmp_path), feature="body", validation_fraction=0.3))
    found = {text for texts in splits.values() for text in texts}
    assert found == {"one", "two words", "half ? a character", "three", "four"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"text": "a"}\n{"text": "b",}\n', r"^Line 2 of '[^\n]*bad.jsonl' is not JSON: [^\n]* at column \d+[.]$"),
        (b'{"text": "a"}\n\n["text"]\n', r"^Line 3 of '[^\n]*bad.jsonl' is no JSON object with a 'text' in it[.]$"),
        (b'{"txt": "a", "id": 3}\n', r"^Line 1 of [^\n]* has no 'text', only 'txt', 'id'[.] Did you mean 'txt'[?]$"),
        (b'{"text": ["a"]}\n', r"^'text' in line 1 of '[^\n]*bad.jsonl' is no text but list[.]$"),
        (b'{"text": "caf\xe9"}\n', r"^Line 1 of '[^\n]*bad.jsonl' is not UTF-8[.]$"),
        (b"", r"holds fewer than two different documents"),
        (b'{"text": "a"}\n{"text": "a "}\n', r"holds fewer than two different documents"),
    ],
)
def test_bad_json_names_the_file_and_the_line(tmp_path, content, words):
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=words):
        both(JsonLines(str(tmp_path)))


def test_a_bad_gzip_file_is_named(tmp_path):
    path = tmp_path / "cut.jsonl.gz"
    write(path, [f"Document {number}." for number in range(1000)])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no gzip", whole[:100] + bytes(100) + whole[200:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cut.jsonl.gz' is no whole gzip file: [^\n]*[.]$"):
            both(JsonLines(str(path), validation_fraction=1e-9))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", r"say --gin\.TEXT=FILE_OR_FOLDER"),
        ("linse.jsonl", r"no file or folder .*Did you mean .*lines\.jsonl"),
        ("empty", r"holds no file that ends in \.jsonl, \.jsonl\.gz, \.jsonl\.zst, \.json\.gz, \.json\.zst\.$"),
    ],
)
def test_json_lines_that_are_not_there(tmp_path, path, words):
    (tmp_path / "lines.jsonl").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        both(JsonLines(str(tmp_path / path) if path else ""))


def test_the_fingerprint_of_json_lines_follows_all_that_matters_and_not_the_place(tmp_path):
    for name in ("here", "there"):
        for file in "ab":
            write(tmp_path / name / f"{file}.jsonl", [file, "c"])
    source = JsonLines(str(tmp_path / "here"))
    elsewhere = replace(source, path=str(tmp_path / "there"))
    assert source.fingerprint() == elsewhere.fingerprint()
    others = {
        source.fingerprint(),
        replace(source, feature="id").fingerprint(),
        replace(source, validation_fraction=0.1).fingerprint(),
    }
    (tmp_path / "there" / "b.jsonl").rename(tmp_path / "there" / "c.jsonl")
    others.add(elsewhere.fingerprint())
    write(tmp_path / "there" / "c.jsonl", ["b", "d"])
    others.add(elsewhere.fingerprint())
    assert len(others) == 5
    with pytest.raises(UserError, match="between 0 and 1"):
        replace(source, validation_fraction=1.0)
