"""Tasks as sources of pairs: records short enough, texts cut in two that make the text again, and what is digested."""

import pytest

from mixlm.data.supervised.sources import Continuations, Examples, TextOfPairs
from mixlm.data.supervised.tasks import task_named
from mixlm.errors import NotHere

ENGLISH = [
    "the farmer sells a boat",
    "no",
    "two old friends walk home and then sleep",
    "a house",
    *["more words here"] * 90,
]


@pytest.fixture
def folder(tmp_path):
    for language in ("en", "de"):
        lines = [line if language == "en" else line.upper() for line in ENGLISH]
        (tmp_path / f"train.{language}").write_text("\n".join(lines))
    return str(tmp_path)


def both(source):
    return [pair for split in ("train", "validation") for pair in source.pairs(split)]


def test_examples_are_those_of_the_task_with_few_enough_words(folder):
    found = both(Examples("wmt_ende", folder, longest=5))
    prefix = task_named("wmt_ende").inputs.format(en="")
    short = [line for line in ENGLISH if len(line.split()) <= 5]
    assert sorted(found) == sorted((f"{prefix}{line}", line.upper()) for line in short)
    assert len(both(Examples("wmt_ende", folder))) == len(ENGLISH)


def test_a_continuation_and_its_beginning_are_the_text_of_either_language(folder):
    found = both(Continuations("wmt_ende", folder, longest=5))
    assert all(first and second for first, second in found)
    wanted = [line for line in ENGLISH if 2 <= len(line.split()) <= 5]
    texts = sorted(f"{first} {second}" for first, second in found)
    assert texts == sorted([*wanted, *(line.upper() for line in wanted)])


def test_a_text_of_pairs_has_every_pair_and_digests_tell_sources_apart(folder):
    sources = Examples("wmt_ende", folder), Continuations("wmt_ende", folder), Examples("wmt_ende", folder, longest=5)
    documents = list(TextOfPairs(sources).documents("train"))
    assert documents == [f"{a} {b}" for source in sources for a, b in source.pairs("train")]
    digests = [source.fingerprint() for source in (*sources, TextOfPairs(sources), TextOfPairs(sources[:1]))]
    assert len(set(digests)) == len(digests)
    with pytest.raises(NotHere, match=r"^The data of 'wmt_ende' are not here: prepare them once with "):
        Examples("wmt_ende", data_dir=f"{folder}/nowhere").fingerprint()
