"""Equal documents are on one side of the split, whatever the names of their files, and a start counts the copies."""

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.data.copies import copies_in, shared_by_parts
from mixlm.data.sources.base import SPLITS, Source
from mixlm.data.sources.jsonl import JsonLines
from mixlm.data.sources.sotu import SotU
from mixlm.data.sources.text import TextFiles
from mixlm.data.store.token_store import Tokenized, open_or_build
from mixlm.errors import UserError


def both(source: Source) -> dict[str, list[str]]:
    return {split: list(source.documents(split)) for split in SPLITS}


def texts(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return [f"Text {number}: " + "word " * draw.randrange(1, 60) + "end" for number in range(count)]


def in_folder(folder: Path, documents: list[str]) -> Source:
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(documents):
        # Line ends and blanks make no other document.
        (folder / f"{number:03}.txt").write_text(
            text + random.Random(number).choice(["", "\n", "  \r\n\n"]), newline=""
        )
    return TextFiles(str(folder), 0.2)


def in_one_file(folder: Path, documents: list[str]) -> Source:
    # As long as one another and as a fortieth of the file, each paragraph is a document.
    (folder / "all.txt").write_text("\n\n".join(text[:12].ljust(300, "x") for text in documents * 2))
    return TextFiles(str(folder / "all.txt"), 0.2)


def in_lines(folder: Path, documents: list[str]) -> Source:
    import json

    (folder / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return JsonLines(str(folder / "all.jsonl"), validation_fraction=0.2)


@pytest.mark.parametrize("put", [in_folder, in_one_file, in_lines])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), copied=st.lists(st.integers(0, 19), min_size=1, max_size=30))
def test_copies_are_on_the_side_of_what_they_are_copies_of(tmp_path_factory, put, seed, copied):
    documents = texts(seed, 20)
    documents += [documents[number] for number in copied]
    random.Random(seed).shuffle(documents)
    splits = both(put(tmp_path_factory.mktemp("copies"), documents))
    assert splits["train"] and splits["validation"] and not set(splits["train"]) & set(splits["validation"])
    if put is in_folder:
        assert sorted(splits["train"] + splits["validation"]) == sorted(documents)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), twice=st.booleans())
def test_a_paragraph_of_one_file_is_on_one_side_wherever_it_stands(tmp_path_factory, seed, twice):
    # Documents are several paragraphs each, and cut elsewhere in the copies.
    draw = random.Random(seed)
    paragraphs = [f"Paragraph {number}: " + "word " * draw.randrange(12, 60) + "end" for number in range(200)]
    copied = paragraphs * 2 if twice else paragraphs + draw.sample(paragraphs, 40)
    file = tmp_path_factory.mktemp("one") / "all.txt"
    file.write_text("\n\n* * *\n\n".join(copied))
    found = {
        split: [part for text in texts for part in text.split("\n\n")]
        for split, texts in both(TextFiles(str(file))).items()
    }
    assert set(found["train"]) & set(found["validation"]) <= {"* * *"} and found["train"] and found["validation"]
    assert sorted(part for parts in found.values() for part in parts if part != "* * *") == sorted(copied)


def test_one_paragraph_again_and_again_is_a_sentence(tmp_path):
    (tmp_path / "all.txt").write_text(
        "\n\n".join(["One paragraph of more than sixty-four bytes, which is all there is."] * 3) + "\n\n\n"
    )
    with pytest.raises(
        UserError, match=r"holds fewer than two different (documents|paragraphs) to train and to test on"
    ):
        both(TextFiles(str(tmp_path / "all.txt")))


def test_the_names_of_files_do_not_decide(tmp_path):
    documents = texts(0, 30)
    first = both(in_folder(tmp_path / "a", documents))
    second = both(in_folder(tmp_path / "b", documents[::-1]))
    assert {split: sorted(found) for split, found in first.items()} == {
        split: sorted(found) for split, found in second.items()
    }


def test_a_text_of_equal_documents_alone_is_a_sentence(tmp_path):
    with pytest.raises(
        UserError, match=r"^'[^']*' holds fewer than two different documents to train and to test on\.$"
    ):
        both(in_folder(tmp_path / "a", ["One text."] * 5))


def test_what_was_held_out_by_name_still_is_where_it_is_asked_for(tmp_path):
    documents = texts(1, 30)
    in_folder(tmp_path / "a", documents)
    found = both(TextFiles(str(tmp_path / "a"), 0.2, hold_out_by="name"))
    # The rule of versions before 0.6.0, written anew: files in the order of their names' hashes, while they fit.
    files = sorted((tmp_path / "a").glob("*.txt"))
    budget, expected = 0.2 * sum(file.stat().st_size for file in files), []
    for file in sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).digest()):
        if file.stat().st_size <= budget:
            budget -= file.stat().st_size
            expected.append(file)
    assert found["validation"] == [documents[int(file.stem)] for file in sorted(expected)]
    assert sorted(found["train"] + found["validation"]) == sorted(documents)
    assert found != both(TextFiles(str(tmp_path / "a"), 0.2))
    with pytest.raises(
        UserError, match=r"^HOLD_OUT_BY is 'content', 'hash' or 'name', not 'nam'\. Did you mean 'name'\?$"
    ):
        TextFiles("a", hold_out_by="nam")


def test_the_default_text_has_no_copies():
    documents = [text for split in SPLITS for text in SotU().documents(split)]
    assert len(set(documents)) == len(documents) == 249


def store(folder: Path, train: list[list[int]], validation: list[list[int]]):
    import numpy as np

    made = {
        name: lambda first, rows=rows: [Tokenized(np.asarray(row, np.int32), 1) for row in rows[first:]]
        for name, rows in (("train", train), ("validation", validation))
    }
    return open_or_build(folder, lambda: made, 100, str(folder), "vocabulary", lambda line: None)


def test_a_start_says_how_many_copies_it_met(tmp_path):
    assert copies_in("a", store(tmp_path / "a", [[1, 2], [3]], [[1, 3], [2]])) == ""
    one_side = store(tmp_path / "b", [[1, 2], [1, 2], [3], [1, 2]], [[4], [4]])
    assert (
        copies_in("b", one_side)
        == "b: 3 of 6 documents are copies of others; none of them is on both sides of the split."
    )
    given = store(tmp_path / "c", [[1, 2], [3]], [[3], [3], [5]])
    said = "c: 2 of 5 documents are copies of others; 2 held-out documents are training documents as well."
    assert copies_in("c", given) == said
    assert shared_by_parts([("b", one_side), ("c", store(tmp_path / "d", [[9]], [[8]]))]) == ""
    shared = shared_by_parts([("b", one_side), ("e", store(tmp_path / "e", [[4], [7]], [[3], [6]]))])
    assert shared == "b, e: 3 documents that one of them holds out are training documents of another."
