"""Minimal pairs are read from what users have: folders of JSONL files of any origin, and TFDS."""

import json
import os
from typing import ClassVar

import pytest

from mixlm.errors import UserError
from mixlm.evaluation import pair_files
from mixlm.evaluation.pair_files import Paradigm, read_pairs


def write(folder, name, *records):
    folder.mkdir(exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def pair(good="a b", bad="b a", **rest):
    return {"sentence_good": good, "sentence_bad": bad, **rest}


# Reading


def test_blimp_s_files_are_read(tmp_path):
    blimp = {"field": "syntax", "linguistics_term": "islands", "UID": "wh_island", "pairID": "0", "extra": 1}
    write(tmp_path / "p", "b", pair(**blimp), "", pair("c d", "d c", **blimp), pair("e", "f", **blimp))
    write(tmp_path / "p", "a", pair())
    write(tmp_path / "p", "c", pair(field="syntax/semantics"))
    assert read_pairs(str(tmp_path / "p")) == (
        Paradigm("a", "a", "a", (("a b", "b a"),)),
        Paradigm("wh_island", "syntax", "islands", (("a b", "b a"), ("c d", "d c"), ("e", "f"))),
        Paradigm("c", "syntax_semantics", "c", (("a b", "b a"),)),
    )
    assert [len(paradigm.pairs) for paradigm in read_pairs(str(tmp_path / "p"), 2)] == [1, 2, 1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["a.jsonl, line 2", "not JSON"]),
        ("[1]", ["a.jsonl, line 2", "no JSON object"]),
        ({"sentence_god": "x", "sentence_bad": "y"}, ["'sentence_good' is missing", "Did you mean 'sentence_god'?"]),
        ({"sentence_good": 3, "sentence_bad": "y"}, ["'sentence_good' is no text"]),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path, line, words):
    write(tmp_path / "p", "a", pair(), line)
    with pytest.raises(UserError) as caught:
        read_pairs(str(tmp_path / "p"))
    assert all(word in str(caught.value) for word in words)


def test_a_folder_without_pairs_is_named(tmp_path):
    (tmp_path / "blimp").mkdir()
    with pytest.raises(UserError, match=r"blip'\. Did you mean '.*blimp'\?"):
        read_pairs(str(tmp_path / "blip"))
    with pytest.raises(UserError, match=r"holds no \.jsonl file"):
        read_pairs(str(tmp_path / "blimp"))
    write(tmp_path / "blimp", "a", "")
    with pytest.raises(UserError, match="no pair of sentences"):
        read_pairs(str(tmp_path / "blimp"))
    (tmp_path / "blimp" / "b.jsonl").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="UTF-8"):
        read_pairs(str(tmp_path / "blimp"))


def test_pairs_of_tfds_are_read_where_they_are_prepared(tmp_path, monkeypatch):
    from mixlm.data.quiet_tensorflow import import_tensorflow

    import_tensorflow()
    import tensorflow_datasets as tfds

    class OurPairs(tfds.core.GeneratorBasedBuilder):
        """Two paradigms."""

        BUILDER_CONFIGS: ClassVar = [
            tfds.core.BuilderConfig(name=name, version="1.0.0") for name in ("first", "second")
        ]
        MODULE_PATH = None

        def _info(self):
            names = ("sentence_good", "sentence_bad", "field", "UID")
            features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in names})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(3):
                name = self.builder_config.name
                yield number, pair(f"é {number}", name, field="syntax", UID=name.upper())

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"not prepared our_pairs/first.*`tfds build our_pairs`"):
        read_pairs("tfds:our_pairs")
    for name in ("first", "second"):
        OurPairs(config=name, data_dir=str(tmp_path)).download_and_prepare()
    found = read_pairs("tfds:our_pairs", limit=2)
    assert [(each.name, each.field, each.term) for each in found] == [
        ("FIRST", "syntax", "first"),
        ("SECOND", "syntax", "second"),
    ]
    assert {bad for each in found for _, bad in each.pairs} == {"first", "second"}
    assert len(found[0].pairs) == 2 and found[0].pairs[0][0].startswith("é ")
    with pytest.raises(UserError, match=r"no builder 'blimpp'\. Did you mean 'blimp'\?"):
        read_pairs("tfds:blimpp")


# Files that are not as they should be


def complaint(folder):
    with pytest.raises(UserError) as caught:
        read_pairs(str(folder))
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"sentence_good": "a", "sentence_bad": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than"),
        (b'{"sentence_good": "a", "sentence_bad": "b", "n": ' + b"9" * 5000 + b"}", "a number of too many digits"),
        (b'{"sentence_good": "\\ud83d", "sentence_bad": "b"}', "'sentence_good' holds half of a character"),
        (b'{"sentence_good": "a", "sentence_bad": "b", "UID": "\\udc00"}', "'UID' holds half of a character"),
        (b'{"sentence_good": "a\x0bb", "sentence_bad": "b"}', "is not JSON: Invalid control character"),
        (b'{"sentence_good": "a", "sentence_bad": "caf\xe9"}', "is not UTF-8"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, words):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(pair()).encode() + b"\n" + line + b"\n")
    sentence = complaint(tmp_path)
    assert "a.jsonl, line 2" in sentence and words in sentence and len(sentence) < 400


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_at_newlines_alone_and_a_byte_order_mark_is_no_text(tmp_path, end):
    """U+2028, U+2029 and U+0085 are characters of a sentence."""
    lines = [json.dumps(pair(good, "b"), ensure_ascii=False) for good in ("a\u2028b", "a\u2029b", "a\x85b")]
    (tmp_path / "a.jsonl").write_bytes(("\ufeff" + end.join(lines)).encode())
    (found,) = read_pairs(str(tmp_path))
    assert found.pairs == (("a\u2028b", "b"), ("a\u2029b", "b"), ("a\x85b", "b"))
    assert [place.rpartition(", ")[2] for place in found.places] == ["line 1", "line 2", "line 3"]


def test_hidden_files_are_left_out_and_endings_count_in_any_case(tmp_path):
    for name in ("._a.jsonl", ".b.jsonl", "notes.txt"):
        (tmp_path / name).write_bytes(b"\x00\x05caf\xe9")
    (tmp_path / "C.JSONL").write_text(json.dumps(pair()))
    assert [each.name for each in read_pairs(str(tmp_path))] == ["C"]
    (tmp_path / "C.JSONL").unlink()
    assert "holds no .jsonl file" in complaint(tmp_path)


def test_only_regular_files_are_read(tmp_path):
    """A pipe without a writer would wait for ever, and /dev/zero has no end."""
    made = tmp_path / "a.jsonl"
    os.mkfifo(made)
    assert "a.jsonl' is a pipe, and only regular files are read" in complaint(tmp_path)
    for target, words in (("/dev/zero", "is a device"), (tmp_path, "is a folder"), ("nowhere", "No such file")):
        made.unlink()
        made.symlink_to(target)
        assert words in complaint(tmp_path)


def test_a_file_whose_name_is_not_utf8_is_read_and_can_be_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    with open(path, "w") as file:
        file.write(json.dumps(pair()) + "\n{")
    sentence = complaint(tmp_path)
    assert "caf\\udce9.jsonl, line 2" in sentence and sentence.encode()
    with open(path, "w") as file:
        file.write(json.dumps(pair()))
    assert read_pairs(str(tmp_path))[0].name == "caf\\udce9"


def test_what_is_no_folder_is_named(tmp_path):
    write(tmp_path / "p", "a", pair())
    assert "a.jsonl' is no folder, and MINIMAL_PAIRS is one" in complaint(tmp_path / "p" / "a.jsonl")
    assert "a name in it has 300 bytes" in complaint(tmp_path / ("x" * 300))
    assert "holds a NUL character" in complaint(f"{tmp_path}/a\0b")


@pytest.mark.parametrize("name", ["", "blimp/adjunct_island", "blimp:0.1.0", "a b", "../x", "1", "huggingface:blimp"])
def test_a_name_that_is_no_builder_s_is_refused_before_tensorflow_is_imported(name, monkeypatch):
    monkeypatch.setattr("mixlm.data.quiet_tensorflow.import_tensorflow", lambda: pytest.fail("imported"))
    assert (
        complaint(f"tfds:{name}")
        == f"MINIMAL_PAIRS={f'tfds:{name}'!r} names no builder of TFDS; it is like 'tfds:blimp'."
    )


def test_an_example_of_tfds_that_is_no_pair_is_named(monkeypatch):
    monkeypatch.setattr(
        pair_files, "_tfds_records", lambda name: [("c", f"tfds:{name}/c, train, example 1", {"text": "a"})]
    )
    assert complaint("tfds:wiki") == "tfds:wiki/c, train, example 1: 'sentence_good' is missing."
