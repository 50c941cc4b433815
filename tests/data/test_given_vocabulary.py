"""A vocabulary from a file: its ids are its library's, special ids go by name, text comes back, bytes add up."""

import io
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from mixlm.data.plain_text import parse_model
from mixlm.data.tasks import TextTask
from mixlm.data.token_bytes import leading_blocks
from mixlm.data.vocabularies.given import GivenVocabulary, network_size, token_ids
from mixlm.errors import NotHere, UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.recipe import Recipe
from mixlm.tokens import TokenIds

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

TEXT = ["The farmer sells a boat in the harbour, and no senator buys it. é 日本"] * 9
ODD = "  <extra_id_0> a<mask></s>\n\t<s> é e\u0301 日本語 \ufb01 \U0001f600 <pad>[MASK] "
BPE = {"pad": ["<pad>", "<s>", "</s>"], "unk": ["<unk>", "<s>", "</s>", "<pad>", "<mask>", "<special_0>"], "gpt2": []}


def trained(special: list[str], prefix: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if "<unk>" in special else None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder, tokenizer.post_processor = decoders.ByteLevel(), processors.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if not special:
        tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def sentencepiece(**options) -> bytes:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, minloglevel=2, hard_vocab_limit=False,
        **{"vocab_size": 300, **options},
    )  # fmt: skip
    return model.getvalue()


LLAMA = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "vocab_size": 340}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file of each kind."""
    found = tmp_path_factory.mktemp("given")
    for name, special in BPE.items():
        trained(special).save(str(found / name))
    trained(BPE["pad"], prefix=True).save(str(found / "prefix"))
    lower = trained(BPE["pad"])
    lower.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    lower.save(str(found / "lower"))
    (found / "llama").write_bytes(sentencepiece(**LLAMA))
    (found / "unigram").write_bytes(sentencepiece(vocab_size=40))
    proto = parse_model(sentencepiece(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, vocab_size=40))
    for k in (2, 1, 0):
        proto.pieces.add(piece=f"\u2581<extra_id_{k}>", score=0.0, type=type(proto).SentencePiece.USER_DEFINED)
    (found / "t5").write_bytes(proto.SerializeToString())
    return found


KINDS = (*BPE, "prefix", "lower", "llama", "unigram", "bytes")
_READ = {}


def read(folder, kind):
    if kind not in _READ:
        _READ[kind] = GivenVocabulary(kind if kind == "bytes" else str(folder / kind), 5).load()
    return _READ[kind]


ALPHABET = st.sampled_from("ab The.\n\t \u00a0\u3000\u0301e\u00e9\ufb01\u65e5\U0001f600\u200d\u2581<>/")
TEXTS = st.text(ALPHABET | st.integers(1, 0xD7FF).map(chr), max_size=25)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(text=TEXTS)
@example(ODD)
@example("")
def test_bytes_add_up_and_no_text_has_a_special_id(folder, kind, text):
    vocabulary = read(folder, kind)
    tokens, sizes = vocabulary.encode_with_bytes(text)
    assert tokens == vocabulary.encode(text) == vocabulary.encode_batch([text])[0]
    assert sum(sizes) == (len(text.encode()) if tokens else 0) and min(sizes, default=0) >= 0
    ids = vocabulary.token_ids
    special = {ids.pad, ids.eos, ids.bos, ids.mask, *range(ids.vocab_size - ids.sentinels, ids.vocab_size)}
    assert not special & set(tokens)
    if kind in (*BPE, "bytes"):
        assert vocabulary.decode(tokens) == text
    if kind in BPE:  # a token of three bytes covers three bytes
        assert b"".join(vocabulary._spelt(token) for token in tokens) == text.encode()
        assert sizes == [len(vocabulary._spelt(token)) for token in tokens]


@settings(max_examples=25, deadline=None)
@given(text=TEXTS)
@example("The farmer sells")
def test_ids_are_those_of_the_libraries(folder, text):
    """Of text without the name of a special token; the tokenizers library takes such a name for the token."""
    assert read(folder, "bytes").encode(text) == [byte + 3 for byte in text.encode()]
    raw = SentencePieceProcessor(model_file=str(folder / "llama"))
    assert read(folder, "llama").encode(text) == raw.encode(text)
    if "<" not in text:
        for kind in ("pad", "unk", "prefix", "lower"):
            library = Tokenizer.from_file(str(folder / kind))
            assert read(folder, kind).encode(text) == library.encode(text, add_special_tokens=False).ids
        if not text[:1].isspace():
            assert read(folder, "prefix").decode(read(folder, "prefix").encode(text)) == text


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        # 323 + <mask> + 5 sentinels; <unk> of a tokenizer that knows all bytes is the padding.
        ("pad", lambda n: TokenIds(n + 6, mask=n, pad=0, eos=2, unk=0, bos=1, sentinels=5)),
        ("unk", lambda n: TokenIds(n + 5, mask=4, pad=0, eos=2, unk=0, bos=1, sentinels=5)),
        ("gpt2", lambda n: TokenIds(n + 8, mask=n + 2, pad=0, eos=n - 1, unk=0, bos=n + 1, sentinels=5)),
        ("llama", lambda n: TokenIds(n + 6, mask=n, pad=0, eos=2, unk=0, bos=1, sentinels=5)),
        ("unigram", lambda n: TokenIds(n + 7, mask=n + 1, pad=0, eos=2, unk=n, bos=1, sentinels=5)),
        ("t5", lambda n: TokenIds(n, mask=n - 3, pad=0, eos=1, unk=2, bos=0, sentinels=3)),
        ("bytes", lambda n: TokenIds(266, mask=260, pad=0, eos=1, unk=2, bos=259, sentinels=5)),
    ],
)
def test_special_ids_go_by_name_and_missing_ones_are_appended(folder, kind, wanted):
    path = "bytes" if kind == "bytes" else str(folder / kind)
    size = 0
    if kind in BPE:
        size = Tokenizer.from_file(path).get_vocab_size()
    elif kind != "bytes":
        size = SentencePieceProcessor(model_file=path).get_piece_size()
    vocabulary = GivenVocabulary(path, 5).load()
    assert vocabulary.token_ids == wanted(size) == token_ids(path, 5)
    ids = vocabulary.token_ids
    assert network_size(path, 5) % 128 == 0 <= network_size(path, 5) - ids.vocab_size < 128
    top = vocabulary.pieces([ids.first_sentinel - k for k in range(ids.sentinels)])
    assert top == [f"<extra_id_{k}>" for k in range(ids.sentinels)]
    assert vocabulary.pieces([ids.vocab_size, -1]) == [f"<{ids.vocab_size}>", "<-1>"]
    marked = vocabulary.encode_with_sentinels("The <extra_id_0> sells <extra_id_1>")
    assert [token for token in marked if token > ids.vocab_size - 1 - ids.sentinels] == [
        ids.first_sentinel, ids.first_sentinel - 1,
    ]  # fmt: skip
    assert vocabulary.decode([ids.mask]).strip() in ("<mask>", "<extra_id_2>")
    assert "<extra_id_0>" in vocabulary.decode(marked) and vocabulary.decode(marked).startswith("The ")


def test_id_0_of_a_file_and_padding_change_places_where_it_is_text(folder):
    spec = GivenVocabulary(str(folder / "gpt2"), 5)
    library, vocabulary = Tokenizer.from_file(spec.path), spec.load()
    first = library.id_to_token(0)
    assert spec.layout.zero == library.get_vocab_size() and spec.layout.appended[0] == "<pad>"
    assert vocabulary.encode(first) == [spec.layout.zero] and vocabulary.pieces([0]) == ["<pad>"]
    assert vocabulary.decode([spec.layout.zero]) == first
    ids = library.encode("The farmer! sells", add_special_tokens=False).ids
    assert [spec.layout.here(token) for token in ids] == vocabulary.encode("The farmer! sells")
    assert read(folder, "pad").token_ids.pad == 0 and GivenVocabulary(str(folder / "pad"), 5).layout.zero == 0


def test_what_a_file_sets_beside_its_tokens_changes_no_document(folder, tmp_path):
    """Truncation would cut documents, padding lengthen them, dropout make them random, a template add to them."""
    library = Tokenizer.from_file(str(folder / "pad"))
    library.enable_truncation(3)
    library.enable_padding(length=50)
    library.model.dropout = 0.5
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    library.save(str(tmp_path / "framed"))
    framed = GivenVocabulary(str(tmp_path / "framed"), 5).load()
    assert [framed.encode(text) for text in TEXT] == [read(folder, "pad").encode(text) for text in TEXT]


def test_unigram_json_knows_no_special_token_in_text(tmp_path):
    library = Tokenizer(
        models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -2.0) for c in "\u2581<>/sab")], 2)
    )
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    library.add_special_tokens(["<pad>", "</s>", "<unk>", "<mask>"])
    library.save(str(tmp_path / "unigram.json"))
    vocabulary = GivenVocabulary(str(tmp_path / "unigram.json"), 2).load()
    assert vocabulary.token_ids == TokenIds(14, mask=10, pad=0, eos=1, unk=2, bos=11, sentinels=2)
    assert vocabulary.decode(vocabulary.encode("a </s> b")) == "a </s> b"


BAD = [
    (b"", r"^The vocabulary '[^']*' is neither a SentencePiece model nor a tokenizer\.json\.$"),
    (b"\x89PNG", r"is neither a SentencePiece model nor"),
    (b'{"a": 1', r"^The vocabulary '[^']*' is not JSON: "),
    (b'{"version": "1.0"}', r"is JSON without a 'model' that has a 'vocab', so it is no tokenizer\.json\.$"),
    (b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}', r"no unknown token and lacks 256 of the 256"),
    (
        b'{"model": {"type": "WordLevel", "vocab": {"<unk>": 0, "<extra_id_0>": 1, "a": 2}, "unk_token": "<unk>"}}',
        r"holds 1 sentinels in another order than T5's",
    ),
    (
        b'{"model": {"type": "Cuckoo", "vocab": {"<unk>": 0, "a": 1}, "unk_token": "<unk>"}}',
        r"is no tokenizer that the tokenizers library reads: [^\n]*\.$",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), BAD)
def test_a_file_of_no_kind_is_one_sentence(tmp_path, content, words):
    (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(UserError, match=words):
        GivenVocabulary(str(tmp_path / "v.json")).load()


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"^There is no vocabulary at '[^']*'\. Did you mean '[^']*tokenizer\.json'\?$"):
        token_ids(str(tmp_path / "tokenizer.jsn"))
    with pytest.raises(NotHere, match=r"say --gin\.VOCAB_MODEL=FILE, or --gin\.VOCAB_MODEL=bytes"):
        token_ids("")
    with pytest.raises(UserError, match=r"SENTINELS is a whole number"):
        GivenVocabulary("bytes", -1)


def built(*arguments: str) -> Recipe:
    return configured(parse_flags(["--gin_file=dual.gin", "--gin_file=data/vocabulary.gin", *arguments], ""), Recipe)


def test_one_macro_names_the_vocabulary(folder):
    recipe = built("--gin.VOCAB_MODEL=bytes")
    assert recipe.tokens == TokenIds(361, mask=260, bos=259) and recipe.networks["model"].vocab_size == 384
    assert recipe.dataset.task.vocabulary == GivenVocabulary("bytes")
    path = str(folder / "pad")
    recipe = built(f"--gin.VOCAB_MODEL={path}", "--gin.SENTINELS=5")
    assert recipe.tokens == token_ids(path, 5) and recipe.networks["model"].vocab_size == network_size(path, 5)
    with pytest.raises(
        UserError, match=r"^The network 'model' has 128 tokens, and the vocabulary 361 \(VOCAB_SIZE\)\.$"
    ):
        built("--gin.VOCAB_MODEL=bytes", "--gin.VOCAB_SIZE=128")


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(folder, tmp_path):
    content = (folder / "pad").read_bytes()
    (tmp_path / "elsewhere").write_bytes(content)
    here, there = GivenVocabulary(str(folder / "pad"), 5), GivenVocabulary(str(tmp_path / "elsewhere"), 5)
    assert here.fingerprint("a") == there.fingerprint("b") and repr(here) == repr(there)
    assert here.load().fingerprint == there.load().fingerprint
    others = [GivenVocabulary(here.path, 6), GivenVocabulary("bytes", 5), GivenVocabulary(str(folder / "unk"), 5)]
    assert len({each.load().fingerprint for each in [here, *others]}) == 4
    assert len({each.fingerprint("") for each in [here, *others]}) == 4


class Held:
    """A source of given documents."""

    def documents(self, split):
        return iter(["The farmer sells \u65e5", "no senator"])

    def fingerprint(self):
        return "held"


@pytest.mark.parametrize("kind", ["pad", "gpt2", "llama", "bytes"])
def test_bytes_of_rows_are_those_of_the_documents(folder, kind):
    vocabulary = read(folder, kind)
    task = TextTask("held", Held(), GivenVocabulary("bytes", 5), add_bos=True, add_eos=True)
    made = list(task.token_bytes(vocabulary, "validation", range(2)))
    assert [int(each.sizes.sum()) for each in made] == [20, 10]
    count = sum(len(each.tokens) for each in made)
    assert leading_blocks(iter(made), 1, count).sum() == 30
    stored = [each.tokens.tolist() for each in task.tokenized(vocabulary, "validation")]
    assert stored == [each.tokens.tolist() for each in made]
    assert json.dumps(stored[0][:1]) == json.dumps([vocabulary.token_ids.bos])
