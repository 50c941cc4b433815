"""Bits per byte: the bytes of the scored tokens are the document's own, whatever the row length and the vocabulary."""

import io
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

from mixlm.data.loader.epochs import sequential
from mixlm.data.loader.streaming import StreamedData
from mixlm.data.seqio_task import feature_bytes
from mixlm.data.store.token_store import StoreSplit
from mixlm.data.tasks import TextTask
from mixlm.data.token_bytes import bytes_of_blocks
from mixlm.data.vocabulary import SentencePieceFile, TrainedSentencePiece, Vocabulary
from mixlm.evaluation.likelihood import CausalLikelihood
from mixlm.evaluation.perplexity import pieces_of_documents, pieces_of_rows, text_figures
from mixlm.evaluation.scorer import Scores

TEXT = ["The farmer sells a boat in the harbour, and no senator buys it."] * 9
SPEC = TrainedSentencePiece(42, sentinels=10)
ACCENT, CJK = "e\u0301", "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059"


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory) -> dict[str, Vocabulary]:
    """A vocabulary of one's own, and models from files: with byte pieces, and one that normalises nothing."""
    folder = tmp_path_factory.mktemp("vocabularies")
    found = {"trained": SPEC.load(lambda: TEXT, "text", folder, lambda _: None)}
    kinds = {
        "bytes": {"byte_fallback": True, "vocab_size": 300},
        "identity": {
            "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False,
            "vocab_size": 40, "model_type": "bpe",
        },
    }  # fmt: skip
    for name, options in kinds.items():
        model = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT), model_writer=model, pad_id=0, eos_id=1, unk_id=2, bos_id=3, minloglevel=2,
            hard_vocab_limit=False, **options,
        )  # fmt: skip
        (folder / name).write_bytes(model.getvalue())
        found[name] = SentencePieceFile(str(folder / name), 10).load(lambda: (), "", folder, print)
    return found


KINDS = ("trained", "bytes", "identity")
ALPHABET = (
    "ab The.\n\t \u00a0\u3000\u0301e\u00e9\ufb01\u00bd\u65e5\u672c\u0436\u0438\U0001f600\U0001f468\u200d\0\u2581<"
)
DOCUMENTS = st.lists(st.text(st.sampled_from(ALPHABET) | st.integers(0, 0xD7FF).map(chr), max_size=30), max_size=4)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(documents=DOCUMENTS, length=st.integers(1, 12))
@example([ACCENT, CJK, "  a b  ", "\ufb01", " ", "", "<extra_id_0> a<mask></s>"], 1)
def test_the_bytes_of_all_tokens_add_up_to_the_document(vocabularies, kind, documents, length):
    vocabulary = vocabularies[kind]
    for document in documents:
        tokens, sizes = vocabulary.encode_with_bytes(document)
        assert tokens == vocabulary.encode(document) and min(sizes, default=0) >= 0
        assert sum(sizes) == (len(document.encode()) if tokens else 0)
        if tokens:
            text = pieces_of_documents([(tokens, sizes)], length)
            assert text.bytes_of(text.sentences.lengths, 2)[0].sum() == len(document.encode())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abehrtu.", min_size=1, max_size=6), min_size=1, max_size=8))
def test_plain_text_gives_each_token_the_letters_of_its_piece(vocabularies, words):
    tokens, sizes = vocabularies["trained"].encode_with_bytes(" ".join(words))
    pieces = vocabularies["trained"].pieces(tokens)
    # No blank precedes the first word, where SentencePiece adds one.
    assert sizes == [len(piece) - (place == 0) for place, piece in enumerate(pieces)]


def bits_of(vocabulary, document):
    """Bits per byte where every token costs one bit."""

    def one_bit_each(mode, sentences, name):
        return Scores(-math.log(2) * sentences.lengths)

    text = pieces_of_documents([vocabulary.encode_with_bytes(document)], 32)
    ids = vocabulary.token_ids
    return text_figures(one_bit_each, CausalLikelihood(ids), text, ids.unk, "causal")


@pytest.mark.parametrize(
    ("document", "size", "unknown"),
    [(ACCENT, 3, 3), (CJK, 24, 24), ("a " + CJK, 26, 24), (CJK + " a", 26, 24), ("a boat", 6, 0)],
)
def test_bits_per_byte_divide_by_the_bytes_of_the_document(vocabularies, document, size, unknown):
    figures = bits_of(vocabularies["trained"], document)
    assert figures.bytes == len(document.encode()) == size
    assert figures.bits_per_byte == pytest.approx(figures.tokens / size)
    assert figures.unknown == pytest.approx(unknown / size)


@dataclass(frozen=True)
class Held:
    """A source of given documents."""

    texts: tuple[str, ...]

    def documents(self, split):
        return iter(self.texts)

    def fingerprint(self):
        return "held"


def split_of(task: TextTask, vocabulary: Vocabulary) -> StoreSplit:
    documents = [document.tokens for document in task.tokenized(vocabulary, "validation")]
    offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in documents])]).astype(np.int64)
    return StoreSplit(np.concatenate(documents).astype(np.uint16), offsets, 0)


@settings(max_examples=30, deadline=None)
@given(documents=DOCUMENTS.map(lambda texts: ["a", *texts]), length=st.integers(1, 9), marked=st.booleans())
def test_the_bytes_of_rows_are_those_of_the_documents_in_them(vocabularies, documents, length, marked):
    """A token keeps its bytes wherever a row ends; BOS and EOS have none; blocks may repeat."""
    vocabulary, task = vocabularies["trained"], TextTask("held", Held(tuple(documents)), SPEC, marked, marked)
    split = split_of(task, vocabulary)
    count = split.num_tokens // length
    if not count:
        return
    blocks = np.asarray([*range(count), 0], np.int64)
    found = bytes_of_blocks(task, vocabulary, "validation", split, blocks, length)
    alone = [vocabulary.encode_with_bytes(document)[1] for document in documents]
    wanted = [size for sizes in alone for size in (*[0] * marked, *sizes, *[0] * marked)]
    assert found.ravel().tolist() == [*wanted[: count * length], *wanted[:length]]
    streamed = StreamedData(task, vocabulary, "held").validation_bytes(length, count + 1)
    np.testing.assert_array_equal(streamed, found)
    if length == 1 and marked:
        text = pieces_of_rows(sequential(split, 1), vocabulary.token_ids, found[:-1])
        assert text.bytes_of(text.sentences.lengths, 2)[0].sum() == sum(map(sum, alone))


def test_bytes_that_cannot_be_known_are_not_guessed(vocabularies):
    vocabulary, task = vocabularies["trained"], TextTask("held", Held(("a boat", "in it")), SPEC)
    split, blocks = split_of(task, vocabulary), np.asarray([0], np.int64)

    def counted(task):
        return bytes_of_blocks(task, vocabulary, "validation", split, blocks, 4)

    class Opaque:
        """A task whose tokens come from elsewhere."""

        name = "opaque"
        fingerprint = load_vocabulary = tokenized = count = print

    assert counted(task).sum() == len("a boat")
    assert counted(Opaque()) is None
    # Text that gives other tokens than are stored, and text that ends before.
    assert counted(replace(task, source=Held(("a bat", "in it")))) is None
    assert counted(replace(task, source=Held(()))) is None


def test_a_feature_of_seqio_has_the_bytes_of_the_text_that_it_was_made_of(vocabularies):
    vocabulary = vocabularies["trained"]
    tokens, sizes = vocabulary.encode_with_bytes("a boat")

    def counted(ids, text):
        example = {"targets": np.asarray(ids, np.int32), "targets_pretokenized": text}
        return feature_bytes(example, "targets", vocabulary)

    assert counted([*tokens, 1], b"a boat") == [*sizes, 0] and counted(tokens, b"a boat") == sizes
    for ids, text in (([*tokens, 7], b"a boat"), (tokens[:-1], b"a boat"), (tokens, b"A BOAT"), (tokens, b"\xff")):
        assert counted(ids, text) is None
    assert feature_bytes({"targets": np.asarray(tokens)}, "targets", vocabulary) is None
