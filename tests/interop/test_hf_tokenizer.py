"""A fast tokenizer cuts any text into the ids that SentencePiece itself gives."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mixlm.data.sources.sotu import SotU
from mixlm.data.vocabulary import TrainedSentencePiece, Vocabulary
from mixlm.interop.hf.tokenizer import tokenizer_files

tokenizers = pytest.importorskip("tokenizers")

DOCUMENTS = [
    "The farmer sells  two letters, caf\u00e9 na\u00efve; \u00bd of 12345678 \u4e2d\u6587 \U0001f33e\U0001f600!",
    "A captain's (own) map: \u03b1\u03b2\u03b3 fi fl\u00e9, \u30ab\u30ac \uac01\ub098 \uff5e ok? e\u0323 \u00c1\u00c5",
] * 12
SIZE = 400
SPECIAL = ("<pad>", "</s>", "<unk>", "<mask>", "<s>", "<extra_id_")
ODD = [
    "",
    " ",
    "   ",
    "\n",
    "two  spaces and   three",
    " before",
    "after ",
    "\tthe\n\ncaptain\r\nsells\x0bmaps\x0c",
    "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f 1\ufe0f\u20e3 \U0001f1e9\U0001f1ea",
    "cafe\u0301 nai\u0308ve e\u0302\u0301 A\u030a \uff21\u0301 \u00bd\u0301",
    "\uff43\uff41\uff54 \u2460 \uff5e ~ \uff76\uff9e \u1100\u1161\u11a8 \u3000wide",
    "zero\u200bwidth \u200d\u200c\ufeffbom soft\u00adhyphen \u202eright",
    "\x01\x02\x7f\x85\x9f controls",
    "unknown \u0f40\u0f41\u0f42 \U0001f9ff\U0001f9ff runs \U00010348",
    "\u2581low \u2581 lines\u2581\u2581",
    "<", "< mask>", "</ s>", "<extra_id_", "<extra_id_999>", "\uff1cmask\uff1e", "<ma\u200dsk>",
    "caf\u00e9" * 40,
]  # fmt: skip


def loaded(vocabulary: Vocabulary, decoder: bool = True):
    files = tokenizer_files(vocabulary, decoder)
    return tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode()), json.loads(files["tokenizer_config.json"])


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def vocabulary(request, tmp_path_factory) -> Vocabulary:
    folder: Path = tmp_path_factory.mktemp("vocabulary")
    spec = TrainedSentencePiece(vocab_size=SIZE, sentinels=20, model_type=request.param)
    speech = next(SotU().documents("train"))[:30_000]
    return spec.load(lambda: [*DOCUMENTS, speech], "text", folder, lambda line: None)


@pytest.fixture(scope="module")
def fast(vocabulary):
    return loaded(vocabulary)[0]


def ids(fast, text: str) -> list[int]:
    return fast.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", ODD)
def test_odd_text_has_the_same_ids(vocabulary, fast, text):
    assert ids(fast, text) == vocabulary.encode(text)


@settings(max_examples=200, deadline=None)
@example("a \u2581b")
@example("\u2581\u0301 \u200c\u0301 a\ufffd\u0301b \u1680\u0301")  # spaces, each with a loose mark
@given(st.text(st.sampled_from(sorted(set("".join(DOCUMENTS + ODD)) - {"\uff9e"})), max_size=30))
def test_any_text_has_the_same_ids(vocabulary, fast, text):
    """Any text but two kinds: a letter with two loose marks, of which SentencePiece composes one and Unicode both (the
    alphabet has no half-width mark, which becomes a loose one), and the name of a special id, which is text to
    SentencePiece alone.
    """
    text = unicodedata.normalize("NFC", text)
    assume(not any(name in text for name in SPECIAL))
    assert ids(fast, text) == vocabulary.encode(text)


@pytest.mark.parametrize(
    "text",
    ["The <extra_id_0> sells <extra_id_19>s", "<extra_id_1> two", "<extra_id_0> <extra_id_1>", "a  <extra_id_2>  b "],
)
def test_sentinels_are_those_of_a_marked_text(vocabulary, fast, text):
    assert ids(fast, text) == vocabulary.encode_with_sentinels(text)


def test_names_of_special_ids_are_special_and_texts_are_framed(vocabulary):
    the = vocabulary.encode("The")
    decoder, config = loaded(vocabulary)
    assert decoder.encode("The<mask>").ids == [3, *the, 4] and decoder.token_to_id("<extra_id_0>") == SIZE - 1
    assert (config["mask_token"], config["bos_token"], config["pad_token"]) == ("<mask>", "<s>", "<pad>")
    assert loaded(vocabulary, decoder=False)[0].encode("The").ids == [*the, 1]
    assert config["additional_special_tokens"][0] == "<extra_id_0>"


def test_text_comes_back(vocabulary, fast):
    text = "The farmer sells two letters"
    assert fast.decode(vocabulary.encode(text)) == text == vocabulary.decode(vocabulary.encode(text))
