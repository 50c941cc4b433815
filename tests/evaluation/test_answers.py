"""Answers are scored given their questions, token by token, as a slow loop over unpadded sentences scores them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given
from hypothesis import strategies as st
from support.slow_scores import SlowScores

from mixlm.errors import UserError
from mixlm.evaluation.likelihood import CausalLikelihood, DiffusionBound, PseudoLikelihood
from mixlm.evaluation.questions import Answer, answer_sentences, window_sentences, words_of
from mixlm.evaluation.reading import Rows
from mixlm.evaluation.scorer import Scorer
from mixlm.evaluation.sentences import Sentences
from mixlm.evaluation.span_likelihood import EachSpan, Everything, SpanFilling
from mixlm.models.llama import Llama
from mixlm.models.t5 import EncoderDecoder
from mixlm.parallel.mesh import Partitioning
from mixlm.tokens import TokenIds

TOKENS = TokenIds(vocab_size=32, mask=4, bos=3, sentinels=6)
BOS = 3
LLAMA = Llama(vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_layers=1, init_std=0.4)
T5 = EncoderDecoder(
    vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_encoder_layers=1, num_decoder_layers=1
)
# Of equal lengths, so that the slow loop compiles once; the words of the last tokens are one.
ROWS = [[9, 12, 20, 7, 15, 22], [11, 6, 13, 14, 8, 17]]
PREFIXES, WORDS = (3, 0), [[1, 2, 3, 4, 4, 4], [1, 1, 1, 2, 3, 3]]


@cache
def params_of(module):
    found = jax.jit(lambda: meta.unbox(module.init(jax.random.key(1), *module.inputs())["params"]))()
    return jax.tree.map(lambda leaf: np.asarray(leaf) * 1.5, found)


def sentences(rows=ROWS, prefixes=PREFIXES, words=WORDS):
    return Sentences(rows, np.asarray(prefixes), np.zeros(len(rows), np.int64), None, words)


def scorer(module):
    return Scorer(module, params_of(module), Partitioning().mesh(jax.devices()[:1]))


def slow(module):
    return SlowScores(module, params_of(module), TOKENS)


CASES = {
    "causal": (LLAMA, CausalLikelihood(TOKENS, answer=True)),
    "word": (LLAMA, PseudoLikelihood(TOKENS, True, word=True, answer=True)),
    "masked": (LLAMA, PseudoLikelihood(TOKENS, False, answer=True)),
    "diffusion": (LLAMA, DiffusionBound(TOKENS, True, samples=2, answer=True)),
    "whole": (T5, SpanFilling(TOKENS, Everything(True))),
    "filling": (T5, SpanFilling(TOKENS, EachSpan(2, True))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_tokens_of_an_answer_are_scored_given_its_question(name):
    module, mode = CASES[name]
    found = scorer(module).tokens(mode, sentences(), name)
    for number, (x, prefix, words) in enumerate(zip(ROWS, PREFIXES, WORDS)):
        wanted, likeliest = slow(module).answer(mode, x, prefix, words)
        np.testing.assert_allclose(found.total[number], wanted, atol=1e-4)
        assert found.likeliest[number] == likeliest
        assert np.isnan(found.log_p[number]).tolist() == [i < prefix for i in range(len(x))]
    np.testing.assert_allclose(scorer(module)(mode, sentences(), name).total, found.total, atol=1e-5)


def test_a_greedy_answer_is_the_likeliest():
    x = list(ROWS[0][:2])
    for _ in range(4):
        row = [BOS, *x, *[0] * (5 - len(x))]
        x.append(int(np.argmax(slow(LLAMA).log_probabilities(row, [1] * 6)[len(x)])))
    other = [*x[:5], (x[5] + 1) % 32]
    found = scorer(LLAMA).tokens(CausalLikelihood(TOKENS, answer=True), sentences([x, other], (2, 2)))
    assert found.likeliest.tolist() == [True, False]


masks = jax.jit(DiffusionBound.masks, static_argnums=0)


def test_masks_fall_on_answers_alone_and_are_those_of_the_question():
    mode, copies = DiffusionBound(TOKENS, True, samples=8, answer=True), jnp.arange(8)
    of = [
        np.asarray(masks(mode, Rows(jnp.full((8, 8), 5), *(jnp.asarray(np.full(8, n)) for n in (length, 3)), copies,
                                    jnp.full(8, 7)))[0])
        for length in (6, 6, 8)
    ]  # fmt: skip
    np.testing.assert_array_equal(of[0], of[1])
    assert not of[0][:, :3].any() and not of[0][:, 6:].any()
    assert set(of[0].sum(axis=1)) <= {1, 2, 3} and of[2].sum(axis=1).max() > 3


# Questions and answers in tokens


class Letters:
    """A token for each character, and for "th" one too, as a vocabulary may join an answer to its question."""

    def encode(self, text):
        text, tokens = text.replace("th", "þ"), []
        for letter in text:
            tokens.append(ord(letter))
        return tokens

    def pieces(self, ids):
        return ["\u2581" if token == ord(" ") else chr(token) for token in ids]


def test_an_answer_begins_where_it_changes_the_tokens():
    answers = [Answer("bat", "he now", "a", "x"), Answer("", "he", "a", "x"), Answer("cat", " is", "b", "x")]
    made, cut = answer_sentences(Letters(), answers, 99)
    assert made.prefixes.tolist() == [2, 0, 3] and cut == 0
    assert made.noise[0] == made.noise[1] != made.noise[2]
    assert made.words is not None and made.words[2] == [1, 1, 1, 2, 2, 2]


def test_of_a_long_question_the_end_is_read():
    made, cut = answer_sentences(Letters(), [Answer("abcdef", "xy", "a", "x")], 5, before=1)
    assert (made.tokens[0], made.prefixes[0], made.previous[0], cut) == ([*map(ord, "defxy")], 3, ord("c"), 1)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("", "The answer '' of t, document 4 adds no token"),
        ("abcdef", "An answer of t, document 4 has 6 tokens, and 5"),
    ],
)
def test_an_answer_that_cannot_be_scored_is_an_error(answer, sentence):
    with pytest.raises(UserError, match=sentence):
        answer_sentences(Letters(), [Answer("a", answer, "a", "t, document 4")], 5)


@given(texts=st.lists(st.text("abc ", max_size=20), max_size=4), length=st.integers(1, 7))
def test_windows_score_every_token_once_after_as_much_as_fits(texts, length):
    made, owners = window_sentences(Letters(), texts, length, before=1)
    scored = [""] * len(texts)
    for tokens, prefix, previous, owner in zip(made.tokens, made.prefixes, made.previous, owners):
        assert len(tokens) == min(length, len(texts[owner]))
        begun = "".join(map(chr, tokens[:prefix]))
        assert scored[owner].endswith(begun) and (previous > 0) == (len(scored[owner]) > len(begun))
        scored[owner] += "".join(map(chr, tokens[prefix:]))
    assert scored == list(texts)


def test_a_word_begins_after_a_space():
    assert words_of(Letters(), [*map(ord, "a bc")]) == [1, 2, 2, 2]
