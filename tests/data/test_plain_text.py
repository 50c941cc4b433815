"""No string in a text becomes a sentinel, a mask or another special id: it is text, and decodes to itself."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from mixlm.data.plain_text import as_plain_text, parse_model
from mixlm.data.vocabulary import SentencePieceFile, TrainedSentencePiece, Vocabulary, special_ids

NAMES = ["<extra_id_0>", "<extra_id_19>", "<mask>", "<s>", "</s>", "<pad>", "<unk>"]
TEXTS = ["<extra_id_0><extra_id_0>", "a<mask>b", "</s>", "the <extra_id_1>s of <s> <pad><unk>", "<extra_id_99> <extra_"]
# Some characters are in these names alone.
DOCUMENTS = ["The farmer sells <extra_id_0>; a<mask>b, </s>, </s>", "a<pad><unk> or 12345678, <s>9. "] * 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


def trained(folder: Path, model_type: str = "unigram") -> Vocabulary:
    spec = TrainedSentencePiece(vocab_size={"unigram": 62, "bpe": 85}[model_type], sentinels=20, model_type=model_type)
    return spec.load(lambda: DOCUMENTS, "text", folder, lambda line: None)


def in_model(folder: Path, name: str) -> Vocabulary:
    """The model in a file: as it was trained, with its sentinels in it, or with a mask that text is searched for."""
    path = folder / f"{name}.model"
    proto = parse_model(trained(folder).path.read_bytes())
    kinds = type(proto).SentencePiece
    if name == "sentinels":
        for k in reversed(range(20)):
            proto.pieces.add(piece=f"\u2581<extra_id_{k}>", score=0.0, type=kinds.USER_DEFINED)
    elif name == "mask":
        proto.pieces[4].type = kinds.USER_DEFINED
    elif name == "normal_mask":
        proto.pieces[4].type, proto.pieces[4].score = kinds.NORMAL, 5.0
    path.write_bytes(proto.SerializeToString())
    return SentencePieceFile(str(path), sentinels=20, mask=4, bos=3).load(list, "", folder, print)


VOCABULARIES = {"unigram": trained, "bpe": trained} | dict.fromkeys(
    ("bare", "sentinels", "mask", "normal_mask"), in_model
)


@pytest.fixture(scope="module", params=VOCABULARIES)
def vocabulary(request, folder) -> Vocabulary:
    return VOCABULARIES[request.param](folder, request.param)


def check(vocabulary: Vocabulary, text: str) -> None:
    ids = vocabulary.encode(text)
    assert not special_ids(vocabulary.token_ids) & set(ids) and vocabulary.token_ids.unk not in ids
    assert vocabulary.decode(ids) == " ".join(text.split())
    assert vocabulary.encode_batch([text]) == [ids]


@pytest.mark.parametrize("text", TEXTS)
def test_the_name_of_a_special_piece_is_text_and_comes_back(vocabulary, text):
    check(vocabulary, text)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([*NAMES, "a", "the", " ", "\n", "<"]), max_size=8).map("".join))
def test_any_text_of_such_names_comes_back(vocabulary, text):
    check(vocabulary, text)


@settings(max_examples=40, deadline=None)
@given(st.text(st.sampled_from("The farmsl<>_0 \n\u4e2d"), max_size=40))
def test_text_without_such_names_has_the_ids_of_the_model_itself(folder, text):
    vocabulary = trained(folder)
    raw = SentencePieceProcessor(model_proto=vocabulary.path.read_bytes())
    assert vocabulary.encode(text) == raw.encode(text)


def test_spans_that_a_user_marks_are_sentinels(vocabulary):
    ids = vocabulary.token_ids
    marked = vocabulary.encode_with_sentinels("The <extra_id_0> sells <extra_id_1>s")
    assert [token for token in marked if token >= ids.vocab_size - 20] == [ids.first_sentinel, ids.first_sentinel - 1]
    assert vocabulary.decode(marked) == "The <extra_id_0> sells <extra_id_1>s"


def test_words_are_not_looked_up_as_control_pieces(folder):
    proto = parse_model(trained(folder).path.read_bytes())
    proto.trainer_spec.model_type = type(proto.trainer_spec).WORD
    proto.normalizer_spec.add_dummy_prefix = False
    model = as_plain_text(proto, {0, 1, 3, 4})
    assert [SentencePieceProcessor(model_proto=model).encode(name) for name in ("</s>", "<mask>")] == [[2], [2]]
