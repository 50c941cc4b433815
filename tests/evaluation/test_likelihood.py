"""Every way of scoring says what a slow loop over single, unpadded sentences says."""

import itertools
import json
from dataclasses import replace
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.evaluation.likelihood import (
    CausalLikelihood,
    DiffusionBound,
    Fused,
    PrefixLikelihood,
    PseudoLikelihood,
    Rows,
)
from mixlm.evaluation.modes import modes_of, select_modes, with_extra
from mixlm.evaluation.perplexity import noise_errors, pieces_of_documents, pieces_of_rows, ratio, text_figures
from mixlm.evaluation.scorer import Scorer, Scores
from mixlm.evaluation.sentences import Sentences
from mixlm.evaluation.span_likelihood import AfterPrefix, EachSpan, Everything, SpanFilling
from mixlm.evaluation.tables import as_json, text_content, text_rows
from mixlm.example import Example, smallest_example
from mixlm.models.heads import TokenHead
from mixlm.models.llama import Llama
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.parallel.mesh import Partitioning
from mixlm.tokens import TokenIds

TOKENS = TokenIds(vocab_size=32, mask=4, bos=3, sentinels=6)
FIRST, EOS, BOS, MASK = 31, 1, 3, 4
T5_DECODER = DecoderOnly(vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_layers=1)
LLAMA = Llama(vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_layers=1, init_std=0.4)
T5 = EncoderDecoder(
    vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_encoder_layers=1, num_decoder_layers=1
)
LENGTHS = (4, 1, 0, 9, 2, 4)
SENTENCES = [np.random.default_rng(n).integers(5, 26, length).tolist() for n, length in enumerate(LENGTHS)]
PREFIXES = (2, 0, 0, 7, 1, 3)


class Shrug(nn.Module):
    """Finds every token equally likely."""

    def setup(self):
        self.unused = self.param("unused", nn.initializers.zeros, (1,))

    def inputs(self):
        return (smallest_example(encoder=False),)

    def hidden(self, example):
        return jnp.zeros((*example.decoder_input_tokens.shape, 2))

    def logits(self, hidden):
        return jnp.zeros((*hidden.shape[:-1], 32))

    def __call__(self, example):
        return self.logits(self.hidden(example))


class ShrugOfTwo(Shrug):
    """The same for what has an encoder."""

    def encode(self, example):
        return jnp.zeros((*example.encoder_input_tokens.shape, 2))


@cache
def params_of(module):
    found = jax.jit(lambda: meta.unbox(module.init(jax.random.key(1), *module.inputs())["params"]))()
    # So that it is sure of something.
    return jax.tree.map(lambda leaf: np.asarray(leaf) * 1.5, found)


def sentences(tokens=SENTENCES, prefixes=PREFIXES, noise=None):
    return Sentences(tokens, np.asarray(prefixes), np.arange(len(tokens)) if noise is None else np.asarray(noise))


def scorer(module, batch_tokens=32, devices=1):
    mesh = Partitioning().mesh(jax.devices()[:devices])
    return Scorer(module, params_of(module), mesh, batch_tokens)


@cache
def call(module):
    return jax.jit(lambda params, example: module.apply({"params": params}, example))


def log_probabilities(module, read, mask_ar, encoder=None):
    """Numpy's log-softmax of one row: [positions, vocabulary]."""
    row = jnp.asarray([read], jnp.int32)
    ones = jnp.ones(row.shape, jnp.int32)
    encoded = None if encoder is None else jnp.asarray([encoder], jnp.int32)
    example = Example(row, ones, jnp.ones(row.shape), jnp.asarray([mask_ar], jnp.int32), encoder_input_tokens=encoded)
    logits = np.asarray(call(module)(params_of(module), example))[0].astype(np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def slow_causal(module, x, prefix):
    return sum(log_probabilities(module, [BOS, *x[:i]], [1] * (i + 1))[-1, x[i]] for i in range(len(x)))


def slow_prefix(module, x, prefix):
    """Token i is said by the position before it, over the prefix that sees itself and what was said since."""
    return sum(
        log_probabilities(module, [BOS, *x[:i]], [0] * (prefix + 1) + [1] * (i - prefix))[-1, x[i]]
        for i in range(prefix, len(x))
    )


def slow_masked(module, x, hidden, shifted):
    """Log-probabilities of every token, with those at the places `hidden` masked."""
    read = [MASK if i in hidden else token for i, token in enumerate(x)]
    read = [BOS, *read] if shifted else read
    found = log_probabilities(module, read, [0] * len(read))
    return [found[i, token] for i, token in enumerate(x)]


def slow_pseudo(shifted, following):
    def slow(module, x, prefix):
        return sum(slow_masked(module, x, range(i, i + 1 + following), shifted)[i] for i in range(len(x)))

    return slow


def slow_filling(bounds):
    def slow(module, x, prefix):
        total = 0.0
        for start, end in bounds(len(x), prefix):
            for i in range(start, end):
                read = [*x[:start], FIRST, *x[end:], EOS]
                said = [BOS, FIRST, *x[start:i]]
                total += log_probabilities(module, said, [1] * len(said), read)[-1, x[i]]
        return total

    return slow


DECODER_MODES = [
    (CausalLikelihood(TOKENS), slow_causal),
    (PrefixLikelihood(TOKENS), slow_prefix),
    (PseudoLikelihood(TOKENS, True), slow_pseudo(True, 0)),
    (PseudoLikelihood(TOKENS, False), slow_pseudo(False, 0)),
    (PseudoLikelihood(TOKENS, True, 2), slow_pseudo(True, 2)),
    (PseudoLikelihood(TOKENS, False, 1), slow_pseudo(False, 1)),
]
FILLING_MODES = [
    (SpanFilling(TOKENS, Everything()), slow_filling(lambda length, prefix: [(0, length)])),
    (SpanFilling(TOKENS, AfterPrefix()), slow_filling(lambda length, prefix: [(prefix, length)])),
    (SpanFilling(TOKENS, EachSpan(1)), slow_filling(lambda length, prefix: [(i, i + 1) for i in range(length)])),
    (
        SpanFilling(TOKENS, EachSpan(3)),
        slow_filling(lambda length, prefix: [(i, min(i + 3, length)) for i in range(0, length, 3)]),
    ),
]
CASES = [(LLAMA, *case) for case in DECODER_MODES] + [(T5_DECODER, *case) for case in DECODER_MODES[:4]]
CASES += [(T5, *case) for case in FILLING_MODES]


NAMES = [f"{type(module).__name__}-{number}" for number, (module, _, _) in enumerate(CASES)]


@pytest.mark.parametrize(("module", "mode", "slow"), CASES, ids=NAMES)
def test_a_score_is_a_slow_loop_s(module, mode, slow):
    # Every length compiles the slow loop anew: what is padded to two lengths is seen on one network.
    count = len(SENTENCES) if module is LLAMA else 3
    found = scorer(module)(mode, sentences(SENTENCES[:count], PREFIXES[:count])).total
    wanted = [slow(module, x, prefix) for x, prefix in zip(SENTENCES[:count], PREFIXES)]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert wanted[2] == 0 and min(wanted) < -5


def test_devices_and_batches_change_nothing():
    mode = PseudoLikelihood(TOKENS, True)
    wanted = scorer(LLAMA)(mode, sentences()).total
    np.testing.assert_allclose(scorer(LLAMA, devices=8)(mode, sentences()).total, wanted, atol=1e-5)
    for size in (1, 10**12):  # of which no more is held than there are rows
        np.testing.assert_allclose(scorer(LLAMA, batch_tokens=size)(mode, sentences()).total, wanted, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(len(SENTENCES))), count=st.integers(1, len(SENTENCES)))
def test_a_score_does_not_depend_on_the_other_sentences(order, count):
    chosen = order[:count]
    part = sentences([SENTENCES[i] for i in chosen], [PREFIXES[i] for i in chosen], chosen)
    for mode in (CausalLikelihood(TOKENS), DiffusionBound(TOKENS, True, samples=2)):
        whole = scorer(LLAMA)(mode, sentences()).total
        np.testing.assert_allclose(scorer(LLAMA)(mode, part).total, whole[chosen], atol=1e-5)


def test_uniform_logits_cost_log_v_in_every_calibrated_mode():
    for module in (Shrug(), ShrugOfTwo()):
        for name, mode in modes_of(module, TOKENS, samples=4).items():
            if not isinstance(mode, Fused):
                short = sentences(SENTENCES[:3], PREFIXES[:3])
                scored = mode.scored(short.lengths, short.prefixes)
                found = scorer(module)(mode, short).total
                np.testing.assert_allclose(found, -scored * np.log(32), rtol=1e-5, err_msg=name)


def test_a_fused_score_is_the_sum():
    parts = CausalLikelihood(TOKENS), PseudoLikelihood(TOKENS, False)
    score = scorer(LLAMA)
    wanted = score(parts[0], sentences()).total + score(parts[1], sentences()).total
    np.testing.assert_allclose(score(Fused(parts), sentences()).total, wanted)
    assert modes_of(LLAMA, TOKENS)["fused_unshifted"] == Fused(parts)


# Masked diffusion


def rows(length, prefix=0, noise=0, copies=(0,), padded=8):
    count = len(copies)
    tokens = jnp.full((count, padded), 5)
    return Rows(tokens, jnp.full(count, length), jnp.full(count, prefix), jnp.asarray(copies), jnp.full(count, noise))


masks = jax.jit(DiffusionBound.masks, static_argnums=0)


def exact_bound(module, x, shifted):
    """All masks of all sizes, each size as likely as any other."""
    total, length = 0.0, len(x)
    for count in range(1, length + 1):
        sets = list(itertools.combinations(range(length), count))
        mean = np.mean([sum(np.take(slow_masked(module, x, hidden, shifted), hidden)) for hidden in sets])
        total += mean / count
    return total


@pytest.mark.parametrize("shifted", [True, False])
def test_the_bound_is_unbiased_and_knows_its_error(shifted):
    x, repeats = SENTENCES[0][:3], 1500
    mode = DiffusionBound(TOKENS, shifted, samples=4)
    many = sentences([x] * repeats, [0] * repeats)
    found = scorer(LLAMA, batch_tokens=4096)(mode, many)
    wanted = exact_bound(LLAMA, x, shifted)
    spread = found.total.std(ddof=1)
    assert abs(found.total.mean() - wanted) < 4 * spread / np.sqrt(repeats)
    assert 1 <= np.mean(noise_errors(found.samples) ** 2) / spread**2 < 2
    np.testing.assert_allclose(found.samples.mean(axis=1), found.total, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_every_level_is_as_likely_and_every_place_within_it(length):
    copies = np.tile(np.arange(8), 500)
    many = rows(length, copies=copies)
    many = many.replace(noise=jnp.asarray(np.repeat(np.arange(500), 8)))
    masked, count = (np.asarray(x) for x in masks(DiffusionBound(TOKENS, True, samples=8), many))
    assert (masked.sum(axis=1) == count).all() and not masked[:, length:].any()
    # Every sample has a stratum of its own.
    assert (count > copies * length // 8).all() and (count <= -(-(copies + 1) * length // 8)).all()
    wanted = len(copies) / length
    assert (abs(np.bincount(count, minlength=length + 1)[1:] - wanted) < 5 * np.sqrt(wanted)).all()
    share = masked[count == 1][:, :length].mean(axis=0)
    assert (abs(share - 1 / length) < 5 * np.sqrt(1 / length / (count == 1).sum())).all()


@given(prefix=st.integers(0, 4), suffix=st.integers(0, 4), inner=st.integers(0, 3), other=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_pair_shares_its_noise(prefix, suffix, inner, other):
    lengths = [prefix + middle + suffix for middle in (inner, other)]
    if 0 in lengths:
        return
    mode, copies = DiffusionBound(TOKENS, True, samples=8, seed=3), np.arange(8)
    (left, some), (right, others) = (masks(mode, rows(n, prefix, 7, copies, padded=16)) for n in lengths)
    common = [range(prefix), *([range(n - suffix, n) for n in lengths])]
    left = np.asarray(left)[:, [*common[0], *common[1]]]
    right = np.asarray(right)[:, [*common[0], *common[2]]]
    # What the common tokens lack to be masked alike is only that one sentence has more of the others masked.
    assert ((left <= right).all(axis=1) | (left >= right).all(axis=1)).all()
    if lengths[0] == lengths[1]:
        assert (np.asarray(some) == np.asarray(others)).all()
        if inner == 0:
            assert (left == right).all()


def test_the_noise_does_not_depend_on_the_padding():
    mode, copies = DiffusionBound(TOKENS, False, samples=8), np.arange(8)
    short, long = (np.asarray(masks(mode, rows(6, 2, 5, copies, padded))[0]) for padded in (8, 24))
    np.testing.assert_array_equal(short, long[:, :8])
    other = np.asarray(masks(mode, rows(6, 2, 6, copies, 8))[0])
    assert (other != short).any()


def test_rows_that_no_machine_holds_are_refused_before_they_are_made():
    with pytest.raises(UserError, match=r"needs at least .* rows to be scored are .*; lower NOISE_SAMPLES"):
        scorer(LLAMA)(DiffusionBound(TOKENS, True, samples=2 * 10**12), sentences())


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_a_bound_needs_an_even_number_of_samples(samples):
    with pytest.raises(UserError, match=f"even number above 0, not {samples}"):
        DiffusionBound(TOKENS, True, samples=samples)


# Which modes there are


def test_a_network_has_the_modes_that_it_can_be_read_in():
    assert list(modes_of(LLAMA, TOKENS)) == [
        "causal", "prefix", "pll_shifted", "pll_shifted_next2", "pll_unshifted", "pll_unshifted_next2",
        "diffusion_shifted", "diffusion_unshifted", "fused_shifted", "fused_unshifted",
    ]  # fmt: skip
    assert list(modes_of(T5, TOKENS)) == ["causal", "prefix", "filling", "filling_3", "fused"]
    assert list(select_modes(modes_of(T5, TOKENS), "filling, causal")) == ["filling", "causal"]
    assert list(select_modes(modes_of(T5, TOKENS), ("prefix",))) == ["prefix"]


class Ours(CausalLikelihood):
    """A mode with a name of its own, which may be that of another."""

    def __init__(self, name):
        super().__init__(TOKENS)
        object.__setattr__(self, "name", name)


def test_a_mode_from_outside_stands_beside_those_of_the_network():
    found = with_extra(modes_of(LLAMA, TOKENS), (Ours("ours"),))
    assert [*found] == [*modes_of(LLAMA, TOKENS), "ours"] and list(select_modes(found, "ours")) == ["ours"]
    with pytest.raises(UserError, match="second scoring mode named 'causal'"):
        with_extra(modes_of(LLAMA, TOKENS), (Ours("causal"),))
    with pytest.raises(UserError, match="a mode has name, kind"):
        with_extra(modes_of(LLAMA, TOKENS), (CausalLikelihood(TOKENS),))


def test_a_mode_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"'pll_shift'.* Did you mean 'pll_shifted'\?"):
        select_modes(modes_of(LLAMA, TOKENS), "causal,pll_shift")
    with pytest.raises(UserError, match=r"TokenHead has no logits\(\)"):
        modes_of(TokenHead(emb_dim=16), TOKENS)
    with pytest.raises(UserError, match="no sentinels"):
        modes_of(T5, TokenIds(vocab_size=32, mask=4, sentinels=0))


def test_a_score_that_is_no_number_is_refused():
    broken = scorer(LLAMA)
    broken.params = jax.tree.map(lambda leaf: leaf * np.nan, broken.params)
    with pytest.raises(UserError, match=r"mode causal is NaN.* diverged.*RUN@STEP"):
        broken(CausalLikelihood(TOKENS), sentences(), "causal")


class Sure(Shrug):
    """Finds token 5 impossible, and every other token equally likely."""

    def logits(self, hidden):
        return jnp.where(jnp.arange(32) == 5, -jnp.inf, jnp.zeros((*hidden.shape[:-1], 32)))


def test_a_sentence_that_the_network_finds_impossible_scores_minus_infinity():
    found = scorer(Sure())(CausalLikelihood(TOKENS), sentences([[6, 7], [6, 5]], (0, 0)))
    np.testing.assert_allclose(found.total, [-2 * np.log(31), -np.inf], rtol=1e-6)


# Text

# Token 5 is "a", 6 "b" and so on; from 20 on, a letter of two bytes. 2 is <unk>.
SIZES = np.where(np.arange(32) < 20, 1, 2)


def figures_of(module, mode, rows, sizes=SIZES):
    text = pieces_of_rows(rows, TOKENS, None if sizes is None else sizes[rows].astype(np.int32))
    return text_figures(scorer(module), mode, text, TOKENS.unk, "mode")


def test_figures_of_a_text_are_per_token_and_per_byte():
    text = np.asarray([[5, 6, 7, 20], [8, 21, 22, 9], [5, 5, 20, 20]], np.int32)
    whole = figures_of(Shrug(), CausalLikelihood(TOKENS), text)
    assert (whole.rows, whole.tokens, whole.bytes, whole.unknown) == (3, 12, 17, 0)
    np.testing.assert_allclose(whole.nats_per_token, np.log(32), rtol=1e-6)
    np.testing.assert_allclose(whole.perplexity, 32, rtol=1e-5)
    np.testing.assert_allclose(whole.bits_per_byte, 5 * 12 / 17, rtol=1e-6)
    half = figures_of(Shrug(), PrefixLikelihood(TOKENS), text)
    assert (half.tokens, half.bytes) == (6, 10)
    np.testing.assert_allclose(half.bits_per_byte, 5 * 6 / 10, rtol=1e-6)
    assert figures_of(Shrug(), Fused((CausalLikelihood(TOKENS),)), text) is None
    bound = figures_of(LLAMA, DiffusionBound(TOKENS, True, 2), text)
    assert bound.noise_error > 0 and whole.noise_error is None


def test_the_share_of_unknown_bytes_is_said_and_bytes_that_are_not_known_are_not():
    text = np.asarray([[5, 2, 7, 8], [2, 5, 21, 9]], np.int32)
    sizes = np.where(np.arange(32) == 2, 7, SIZES)
    whole = figures_of(Shrug(), CausalLikelihood(TOKENS), text, sizes)
    assert (whole.bytes, whole.unknown) == (21, 14 / 21)
    assert figures_of(Shrug(), PrefixLikelihood(TOKENS), text, sizes).unknown == 0
    none = figures_of(Shrug(), CausalLikelihood(TOKENS), text, None)
    assert (none.bytes, none.bits_per_byte, none.bits_error, none.unknown) == (None,) * 4
    assert none.nats_per_token == whole.nats_per_token and none.nats_error == whole.nats_error


@pytest.mark.parametrize("mode", [CausalLikelihood(TOKENS), DiffusionBound(TOKENS, True, 2)])
@pytest.mark.parametrize("cost", [350.0, 1e30, np.inf])
def test_a_diverged_run_has_figures_that_can_be_read(mode, cost):
    """However much a token costs: no overflow, infinity in the table and null in JSON."""
    rows = np.asarray([[5, 6, 7, 20], [8, 21, 22, 9]], np.int32)
    text = pieces_of_rows(rows, TOKENS, SIZES[rows].astype(np.int32))
    scores = Scores(np.asarray([-4 * cost, -8.0]), np.asarray([[-4 * cost, -cost], [-8.0, -9.0]]))
    found = {"causal": text_figures(lambda *_: scores, mode, text, TOKENS.unk, "")}
    assert found["causal"].nats_per_token == (4 * cost + 8) / 8
    assert found["causal"].perplexity == (np.inf if cost > 1500 else np.exp((4 * cost + 8) / 8))
    cells = {label.strip(): each for label, (each,) in text_rows(found)}
    assert all(len(each) <= 12 for each in cells.values())
    assert cells["perplexity"] == ("inf" if cost > 1500 else "2.728e+76")
    assert cells["nats per token"] == {350.0: "176.0000", 1e30: "5e+29", np.inf: "inf"}[cost]
    content = json.loads(as_json(text_content(found)))["causal"]
    assert (content["perplexity"] is None) == (cost > 1500)
    assert (content["nats_per_token"] is None) == (content["bits_per_byte"] is None) == np.isinf(cost)


def test_text_is_cut_where_documents_begin_and_end():
    text = np.asarray([[5, 6, BOS, 7, 8], [BOS, 9, 10, EOS, 0], [EOS, BOS, 0, 0, 0], [11, 12, 13, 14, 15]], np.int32)
    found = pieces_of_rows(text, TOKENS)
    assert found.sentences.tokens == [[5, 6], [7, 8], [9, 10], [11, 12, 13, 14, 15]]
    assert found.rows.tolist() == [0, 0, 1, 3] and found.sentences.prefixes.tolist() == [1, 1, 1, 2]
    figures = text_figures(scorer(Shrug()), CausalLikelihood(TOKENS), found, TOKENS.unk, "causal")
    assert (figures.rows, figures.tokens) == (3, 11)
    counted = pieces_of_rows(text, TOKENS, np.arange(20, dtype=np.int32).reshape(4, 5))
    assert counted.sizes == [[0, 1], [3, 4], [6, 7], [15, 16, 17, 18, 19]]
    assert counted.sentences.tokens == found.sentences.tokens
    with pytest.raises(UserError, match="hold no text"):
        pieces_of_rows(text[2:3], TOKENS)


def test_a_row_in_mid_document_is_read_after_the_token_before_it():
    """Where training cuts its rows anywhere (ROW_BOS = False); a row that begins a document is read after bos."""
    text = np.asarray([[5, 6, BOS, 7, 8], [9, 10, 11, 12, 13], [14, 15, 5, 6, 7]], np.int32)
    found = pieces_of_rows(text, TOKENS, previous=np.asarray([0, 8, BOS], np.int32)).sentences
    assert found.previous.tolist() == [0, 0, 8, 0]
    assert pieces_of_rows(text, TOKENS).sentences.previous is None
    document = [([5, 6, 7, 8, 9], [1] * 5)]
    assert pieces_of_documents(document, 2, before=1).sentences.previous.tolist() == [0, 6, 8]
    assert pieces_of_documents(document, 2).sentences.previous is None
    for mode in (CausalLikelihood(TOKENS), PseudoLikelihood(TOKENS, shifted=True)):
        there = scorer(LLAMA)(mode, found).total
        # The same with that token in the place of bos.
        instead = replace(mode, tokens=replace(TOKENS, bos=8))
        wanted = [scorer(LLAMA)(kind, replace(found, previous=None)).total for kind in (mode, instead)]
        np.testing.assert_allclose(there, np.where(found.previous == 8, wanted[1], wanted[0]), rtol=1e-5)
        assert abs(wanted[0][2] - wanted[1][2]) > 1e-3


def test_the_standard_error_of_a_ratio_is_what_repeats_show():
    draw = np.random.default_rng(0)
    sizes = draw.integers(50, 90, (4000, 20))
    numbers = sizes * 2.0 + draw.normal(0, 9, sizes.shape)
    found = [ratio(number, size) for number, size in zip(numbers, sizes)]
    means, errors = zip(*found)
    np.testing.assert_allclose(np.mean(errors), np.std(means), rtol=0.05)
    np.testing.assert_allclose(ratio([1.0, 3.0, 8.0], [1, 1, 1]), (4.0, np.std([1, 3, 8], ddof=1) / np.sqrt(3)))
    assert np.isnan(ratio([1.0], [2])[1])
