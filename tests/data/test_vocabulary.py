"""Vocabularies: the layout of ids, agreement with SentencePiece itself, and text that comes back when decoded."""

import itertools
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from mixlm.data.sentencepiece_training import training_sentences
from mixlm.data.sources.sotu import SotU
from mixlm.data.vocabulary import SentencePieceFile, TrainedSentencePiece, Vocabulary
from mixlm.errors import UserError

SPEC = TrainedSentencePiece(vocab_size=1000)
TEXT = "Thank you for inviting the Congress of the United States to the party. "


def load(spec: TrainedSentencePiece, folder: Path, documents: list[str], log=lambda line: None) -> Vocabulary:
    return spec.load(lambda: documents, "text", folder, log)


@pytest.fixture(scope="module")
def documents() -> list[str]:
    speeches = SotU().documents("train")
    return [next(speeches) for _ in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def vocabulary(documents, folder) -> Vocabulary:
    return load(SPEC, folder, documents)


def test_layout(vocabulary):
    ids = vocabulary.token_ids
    assert (ids.vocab_size, ids.pad, ids.eos, ids.unk, ids.bos, ids.mask, ids.sentinels) == (1000, 0, 1, 2, 3, 4, 100)
    assert vocabulary.pieces([0, 1, 2, 3, 4]) == ["<pad>", "</s>", "<unk>", "<s>", "<mask>"]
    assert vocabulary.pieces([999, 998, 900, 1000]) == ["<extra_id_0>", "<extra_id_1>", "<extra_id_99>", "<1000>"]
    raw = SentencePieceProcessor(model_file=str(vocabulary.path))
    assert raw.get_piece_size() == 900
    assert vocabulary.pieces([5, 899]) == [raw.id_to_piece(5), raw.id_to_piece(899)]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_text_comes_back(vocabulary, documents, data):
    alphabet = sorted(set("".join(documents)))
    text = data.draw(st.text(st.sampled_from(alphabet), max_size=60))
    ids = vocabulary.encode(text)
    assert all(5 <= token < 900 for token in ids)
    assert vocabulary.decode(ids) == " ".join(text.split())


def test_real_text_comes_back_in_words_and_in_fewer_tokens(vocabulary, documents):
    ids = vocabulary.encode(documents[0])
    assert vocabulary.decode(ids) == " ".join(documents[0].split())
    assert len(ids) < len(documents[0]) / 2


def test_special_ids_are_named_and_spaced(vocabulary):
    the, of = vocabulary.encode("the"), vocabulary.encode("of")
    assert vocabulary.decode([*the, 999, *of, 998, 4, *the, 1, 0]) == (
        "the <extra_id_0> of <extra_id_1> <mask> the </s> <pad>"
    )
    within = next(t for t in range(5, 900) if vocabulary.pieces([t]) == ["ing"])
    assert vocabulary.decode([*the, 999, within]) == "the <extra_id_0>ing"
    assert vocabulary.encode_with_sentinels("the <extra_id_0> of") == [*the, 999, *of]
    assert vocabulary.decode([]) == ""
    assert 2 in vocabulary.encode("\u4e2d") and "<unk>" in vocabulary.decode(vocabulary.encode("\u4e2d"))
    # The name of a control piece is text like any other: no text can end a document or mask itself.
    assert not {0, 1, 3, 4} & set(vocabulary.encode("<pad></s><s><mask>"))


def test_text_without_sentinels_is_cut_as_the_bare_model_cuts_it(vocabulary, documents):
    raw = SentencePieceProcessor(model_file=str(vocabulary.path))
    for text in [*documents, "a b \u4e2d\n\nc", ""]:
        assert vocabulary.encode(text) == raw.encode(text)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab <extra_id_0>\n\u4e2d\0"), max_size=60), max_size=9))
def test_a_batch_of_texts_is_encoded_as_each_alone(vocabulary, texts):
    assert vocabulary.encode_batch(texts) == [vocabulary.encode(text) for text in texts]


def test_training_is_quiet_and_gives_the_same_model_again_and_once(tmp_path, documents, capfd):
    notes: list[str] = []
    first, second = (load(SPEC, tmp_path / name, documents, notes.append) for name in "ab")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.fingerprint == second.fingerprint
    assert len(notes) == 2

    def unread():
        raise AssertionError("the text is read again")

    again = SPEC.load(unread, "text", tmp_path / "a", notes.append)
    assert len(notes) == 2 and again.fingerprint == first.fingerprint
    assert capfd.readouterr() == ("", "")


def test_other_text_or_settings_get_another_file(tmp_path, documents):
    specs = [SPEC, TrainedSentencePiece(vocab_size=900), TrainedSentencePiece(vocab_size=1000, sentinels=50)]
    assert len({spec.fingerprint(text) for spec in specs for text in ("text", "other")}) == 6
    assert len({load(spec, tmp_path, documents).path for spec in specs}) == 3


def test_a_truncated_model_is_trained_again_with_a_note(tmp_path, documents):
    path = load(SPEC, tmp_path, documents).path
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    notes: list[str] = []
    assert load(SPEC, tmp_path, documents, notes.append).path.read_bytes() == whole
    assert str(path) in notes[0] and "damaged" in notes[0]


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_text_too_small_names_the_largest_size_that_works(tmp_path, documents, model_type):
    text = [documents[0][:3000]]
    with pytest.raises(UserError, match=r"set VOCAB_SIZE to at most \d+\.$") as caught:
        load(TrainedSentencePiece(8192, model_type=model_type), tmp_path, text)
    largest = int(str(caught.value).split()[-1].rstrip("."))
    assert load(TrainedSentencePiece(largest, model_type=model_type), tmp_path, text).token_ids.vocab_size == largest
    with pytest.raises(UserError, match=f"at most {largest}"):
        load(TrainedSentencePiece(largest + 1, model_type=model_type), tmp_path, text)


def test_too_many_characters_name_the_smallest_size(tmp_path):
    text = ["".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 5]
    with pytest.raises(UserError, match=r"set VOCAB_SIZE to at least \d+\.$") as caught:
        load(TrainedSentencePiece(vocab_size=300), tmp_path, text)
    smallest = int(str(caught.value).split()[-1].rstrip("."))
    assert load(TrainedSentencePiece(smallest), tmp_path, text).token_ids.vocab_size == smallest
    with pytest.raises(UserError, match=f"at least {smallest}"):
        load(TrainedSentencePiece(smallest - 1), tmp_path, text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "unigrm"}, "Did you mean 'unigram'"),
        ({"vocab_size": 105}, "100 sentinels"),
        ({"sentinels": -1}, "-1 sentinels"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        TrainedSentencePiece(**settings)


def test_an_existing_model_is_laid_out_as_t5_s(vocabulary, documents, folder):
    spec = SentencePieceFile(str(vocabulary.path), sentinels=60)
    existing = spec.load(list, "unused", folder, print)
    ids = existing.token_ids
    assert (ids.vocab_size, ids.sentinels, ids.first_sentinel, ids.mask, ids.bos) == (960, 60, 959, 900, 0)
    assert existing.decode([900]) == "<extra_id_59>"
    raw = SentencePieceProcessor(model_file=str(vocabulary.path))
    assert existing.encode(documents[0]) == raw.encode(documents[0])
    assert SentencePieceFile(spec.path, mask=4).load(list, "", folder, print).token_ids.mask == 4
    assert len({existing.fingerprint, vocabulary.fingerprint}) == 2
    assert spec.fingerprint("a") == spec.fingerprint("b") != SentencePieceFile(spec.path).fingerprint("a")


def with_sentinels(vocabulary: Vocabulary, path: Path, order: list[int], after: int = 0) -> Path:
    """The model with sentinels of its own as its last pieces, as one of T5's files has them."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.path.read_bytes())
    kind = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    for piece in [*(f"\u2581<extra_id_{k}>" for k in order), *(f"<after_{k}>" for k in range(after))]:
        proto.pieces.add(piece=piece, score=0.0, type=kind)
    path.write_bytes(proto.SerializeToString())
    return path


def test_sentinels_in_the_model_itself_are_those_that_would_be_added(vocabulary, documents, tmp_path):
    path = with_sentinels(vocabulary, tmp_path / "extra.model", list(reversed(range(100))))
    found = SentencePieceFile(str(path)).load(list, "", tmp_path, print)
    added = SentencePieceFile(str(vocabulary.path)).load(list, "", tmp_path, print)
    assert found.token_ids == added.token_ids and found.token_ids.vocab_size == 1000
    text = "a <extra_id_0> b<extra_id_99> c " + documents[0]
    marked = found.encode_with_sentinels(text)
    assert marked == added.encode_with_sentinels(text) and 999 in marked
    assert found.decode(marked) == added.decode(marked)
    assert found.encode(text) == added.encode(text)
    assert found.pieces([999, 900]) == ["<extra_id_0>", "<extra_id_99>"]
    raw = SentencePieceProcessor(model_file=str(path))
    assert raw.get_piece_size() == 1000 and raw.encode(text) == marked


@pytest.mark.parametrize(
    ("order", "sentinels", "after"),
    [([0, 1, 2], 3, 0), ([2, 1, 0], 100, 0), ([3, 2, 1], 3, 0), ([2, 1, 0], 0, 0), ([2, 1, 0], 3, 1)],
)
def test_other_sentinels_in_the_model_are_refused(vocabulary, tmp_path, order, sentinels, after):
    path = with_sentinels(vocabulary, tmp_path / "extra.model", order, after)
    with pytest.raises(UserError, match=r"extra.model holds 3 sentinels where its \d+ last pieces should be them"):
        SentencePieceFile(str(path), sentinels=sentinels, mask=4).load(list, "", tmp_path, print)


def test_a_model_that_is_missing_or_none_is_named(vocabulary, tmp_path):
    (tmp_path / "t5.model").write_text("no model")
    with pytest.raises(UserError, match=r"t5\.model is not a SentencePiece model"):
        SentencePieceFile(str(tmp_path / "t5.model")).load(list, "", tmp_path, print)
    with pytest.raises(UserError, match=r"no SentencePiece model at .*Did you mean .*t5\.model"):
        SentencePieceFile(str(tmp_path / "t5.modle")).fingerprint("")
    with pytest.raises(UserError, match="no SentencePiece model"):
        SentencePieceFile("/nowhere/at/all").fingerprint("")
    with pytest.raises(UserError, match=r"say --gin\.VOCAB_MODEL=FILE"):
        SentencePieceFile("").fingerprint("")


def test_a_model_is_a_regular_file_with_a_model_in_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    wanted = {
        tmp_path / "pipe": "is a pipe, and only regular files",
        "/dev/zero": "is a device, and only regular files",
        tmp_path: "is a folder, and only regular files",
        tmp_path / "empty": "empty is not a SentencePiece model",
        "/proc/self/status": "is not a SentencePiece model",  # its size is 0, and its content is not
    }
    for path, sentence in wanted.items():
        with pytest.raises(UserError, match=sentence):
            SentencePieceFile(str(path)).load(list, "", tmp_path, print)


@pytest.mark.parametrize("name", ["model", "sha256"])
def test_a_pipe_in_the_cache_is_no_vocabulary(tmp_path, vocabulary, name):
    for suffix in (".model", ".sha256"):
        shutil.copy(vocabulary.path.with_suffix(suffix), tmp_path / f"a{suffix}")
    assert SPEC._open(tmp_path / "a.model").fingerprint == vocabulary.fingerprint
    (tmp_path / f"a.{name}").unlink()
    os.mkfifo(tmp_path / f"a.{name}")
    with pytest.raises(UserError):
        SPEC._open(tmp_path / "a.model")


def test_a_model_without_padding_at_0_is_refused(tmp_path, documents):
    from sentencepiece import SentencePieceTrainer

    prefix = str(tmp_path / "llama")
    SentencePieceTrainer.train(
        sentence_iterator=iter(documents[0].split("\n")), model_prefix=prefix, vocab_size=200, minloglevel=2
    )
    with pytest.raises(UserError, match="padding at id 0"):
        SentencePieceFile(prefix + ".model").load(list, "", tmp_path, print)


@example(["\u4e2d" * 5000, "a " * 5000])
@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("ab \n\u4e2d"), max_size=6000), max_size=4))
def test_training_sentences_hold_all_the_text_in_pieces_that_fit(texts):
    sentences = training_sentences(texts)
    assert "".join("".join(sentences).split()) == "".join("".join(texts).split())
    assert all(0 < len(sentence) <= 2000 and len(sentence.encode()) < 8192 for sentence in sentences)


def test_training_sentences_are_thinned_evenly():
    kept = [int(line) for line in training_sentences((f"{number:06}" for number in range(100_000)), limit=6000)]
    assert 400 <= len(kept) <= 1000
    assert {b - a for a, b in itertools.pairwise(kept)} == {kept[1] - kept[0]}
    assert kept[-1] > 99_000
