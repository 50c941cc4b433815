"""Each preset of gin/evaluation/ judges pairs as its pipeline does: slow references in NumPy of what they do."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.places import GIN

from mixlm.errors import UserError
from mixlm.evaluation.conventions import CONTEXTS, NORMALISATIONS, TIES, Convention, scores_of
from mixlm.evaluation.likelihood import CausalLikelihood, DiffusionBound, Fused, PrefixLikelihood, PseudoLikelihood
from mixlm.evaluation.minimal_pairs import check_scored, pair_sentences, score_pairs
from mixlm.evaluation.modes import modes_of
from mixlm.evaluation.pair_files import Paradigm
from mixlm.evaluation.reading import Context, Rows, in_context
from mixlm.evaluation.scorer import Scorer
from mixlm.example import smallest_example
from mixlm.gin_config.reader import read
from mixlm.models.attention.masks import self_mask
from mixlm.parallel.mesh import Partitioning
from mixlm.tokens import TokenIds

IDS = TokenIds(vocab_size=32, mask=4, bos=3, sentinels=6)
PAD, EOS, BOS, MASK = 0, 1, 3, 4
DRAW = np.random.default_rng(0)
EMBEDDING, HEAD = DRAW.normal(size=(32, 6)), DRAW.normal(size=(6, 32))


class Nearness(nn.Module):
    """Position i reads every token that its mask shows, the more the nearer it is."""

    def inputs(self):
        return (smallest_example(encoder=False),)

    def hidden(self, example):
        seen = self_mask(example.decoder_mask_ar, example.decoder_segments).dense()
        place = jnp.arange(seen.shape[1])
        near = seen / (1.0 + 3.0 * abs(place[None, :, None] - place[None, None, :]))
        return jnp.tanh(near @ jnp.asarray(EMBEDDING, jnp.float32)[example.decoder_input_tokens])

    def logits(self, hidden):
        return hidden @ jnp.asarray(HEAD, jnp.float32)


def log_softmax_of(ids, causal):
    """The same network for one unpadded row: [positions, vocabulary]."""
    place = np.arange(len(ids))
    seen = place[:, None] >= place if causal else True
    near = seen / (1.0 + 3.0 * abs(place[:, None] - place))
    logits = np.tanh(near @ EMBEDDING[ids]) @ HEAD
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


# The pipelines. `x` are a sentence's tokens without special ones.


def harness_loglikelihood(x):
    """lm_eval: TemplateLM.loglikelihood with an empty context, whose place the prefix token takes; BOS, or else EOS."""
    context, continuation = [BOS], list(x)
    inputs = (context + continuation)[:-1]
    log_p = log_softmax_of(inputs, causal=True)[-len(continuation) :]
    return float(sum(log_p[i, token] for i, token in enumerate(continuation)))


def minicons_masked_tensors(ids, targets_start=0):
    """minicons: MaskedLMScorer.get_masked_tensors and compute_stats, the metric "original"."""
    scores = []
    for index, token in enumerate(ids):
        if token not in (PAD, BOS, EOS) and index >= targets_start:
            masked = [*ids]
            masked[index] = MASK
            scores.append(log_softmax_of(masked, causal=False)[index, token])
    return float(np.mean(scores))


def minicons_conditional_score(x):
    """What BabyLM 2024 calls: the text of EOS is the prefix, and the tokenizer puts CLS and SEP around the whole."""
    prefix_encoded = [BOS, EOS, EOS]
    start = sum(token not in (PAD, EOS) for token in prefix_encoded)
    return minicons_masked_tensors([BOS, EOS, *x, EOS], start)


def minicons_sequence_score_masked(x):
    return minicons_masked_tensors([BOS, *x, EOS])


def minicons_sequence_score_incremental(x):
    """IncrementalLMScorer: no bos_token by default, "ignore the probabilities of the first token", the mean."""
    effective = x[1:]
    log_p = log_softmax_of(x, causal=True)
    return float(np.mean([log_p[i, token] for i, token in enumerate(effective)]))


def babylm_2025(x, backend):
    """sentence_zero_shot: special tokens have the offsets (0, 0), and what ends after character 0 is the phrase."""
    tokens = [BOS, *x] if backend == "causal" else [BOS, *x, EOS]
    ends = [0, *range(1, len(x) + 1), 0]
    phrase = [i for i, _ in enumerate(tokens) if ends[i] > 0]
    if backend == "causal":
        log_p, targets = log_softmax_of(tokens[:-1], causal=True), tokens[1:]
        return float(sum(log_p[i - 1, targets[i - 1]] for i in phrase))
    total = 0.0
    for i in phrase:
        masked = [*tokens]
        masked[i] = MASK
        total += log_softmax_of(masked, causal=False)[i - (backend == "mntp"), tokens[i]]
    return float(total)


def argmax_is_good(good, bad):
    """np.argmax and torch.max take the first of equal ones, and the acceptable sentence is the first."""
    return float(np.argmax([good, bad]) == 0)


def strictly_or_half(good, bad):
    """minicons judges no pair: the tie is ours."""
    return 0.5 if good == bad else float(good > bad)


PIPELINES = {
    "babylm_2024_causal": (harness_loglikelihood, argmax_is_good),
    "babylm_2024_masked": (minicons_conditional_score, argmax_is_good),
    "babylm_2025_causal": (partial(babylm_2025, backend="causal"), argmax_is_good),
    "babylm_2025_mlm": (partial(babylm_2025, backend="mlm"), argmax_is_good),
    "babylm_2025_mntp": (partial(babylm_2025, backend="mntp"), argmax_is_good),
    "lm_evaluation_harness": (harness_loglikelihood, argmax_is_good),
    "minicons_causal": (minicons_sequence_score_incremental, strictly_or_half),
    "minicons_masked": (minicons_sequence_score_masked, strictly_or_half),
}

# The first pair of each paradigm has sentences of different lengths, and there is a tie.
PAIRS = [
    (DRAW.integers(5, 26, DRAW.integers(2, 7)).tolist(), DRAW.integers(5, 26, DRAW.integers(2, 7)).tolist())
    for _ in range(40)
] + [([7, 8, 9], [7, 8, 9])]


def text(tokens):
    return "".join(map(chr, tokens))


def encode(sentence):
    return [ord(letter) for letter in sentence]


def paradigm(*pairs):
    places = tuple(f"a.jsonl, line {number}" for number, _ in enumerate(pairs, 1))
    return (Paradigm("p", "f", "t", tuple((text(good), text(bad)) for good, bad in pairs), places),)


@cache
def scorer():
    return Scorer(Nearness(), {}, Partitioning().mesh(jax.devices()[:1]), 1024)


def preset(name):
    macros = {
        key: binding.value for key, binding in read((str(GIN / "evaluation" / f"{name}.gin"),), (), ()).macros.items()
    }
    return macros["MODES"], Convention(macros["PAIR_NORMALISATION"], macros["CONTEXT"], macros["TIES"])


def test_there_is_a_reference_for_every_preset():
    assert sorted(path.stem for path in (GIN / "evaluation").glob("*.gin")) == sorted(PIPELINES)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_preset_scores_and_judges_as_its_pipeline(name):
    slow, judge = PIPELINES[name]
    mode_name, convention = preset(name)
    mode = modes_of(Nearness(), IDS, context=convention.context_of(IDS))[mode_name]
    sentences = pair_sentences(paradigm(*PAIRS), encode)
    found = scores_of(scorer(), mode, sentences, normalisation=convention.normalisation).total
    wanted = np.asarray([[slow(good), slow(bad)] for good, bad in PAIRS])
    np.testing.assert_allclose(found, wanted.T.ravel(), rtol=1e-4)
    accuracies = score_pairs(scorer(), mode, paradigm(*PAIRS), sentences, resamples=2, convention=convention)
    assert accuracies.overall.value == pytest.approx(np.mean([judge(good, bad) for good, bad in wanted]))
    assert accuracies.ties == 1 and 0.2 < accuracies.overall.value < 0.8


def test_the_conventions_differ_in_what_they_prefer():
    """Else the test above would show little."""
    scores = {name: tuple((slow(good), slow(bad)) for good, bad in PAIRS) for name, (slow, _) in PIPELINES.items()}
    assert len(set(scores.values())) == 6
    assert len({tuple(good > bad for good, bad in each) for each in scores.values()}) >= 4


# Contexts


def test_a_context_stands_right_around_each_sentence():
    tokens = np.asarray([[5, 6, 7, 0], [8, 0, 0, 0]], np.int32)
    read, present = in_context(jnp.asarray(tokens), jnp.asarray([3, 1]), CONTEXTS["cls_eos_sep"](IDS))
    assert np.where(present, read, -1).tolist() == [[3, 1, 5, 6, 7, 1, -1], [3, 1, 8, 1, -1, -1, -1]]
    alone, all_of_it = in_context(jnp.asarray(tokens), jnp.asarray([4, 4]), CONTEXTS["none"](IDS))
    assert np.array_equal(alone, tokens) and all_of_it.all()


LEFT = (
    CausalLikelihood(IDS, context=Context()),
    PrefixLikelihood(IDS, context=Context()),
    PseudoLikelihood(IDS, True, context=Context()),
    DiffusionBound(IDS, True, 4, context=Context()),
)


def test_without_a_context_the_first_token_is_scored_only_where_it_is_predicted_in_place():
    lengths, prefixes = np.asarray([0, 1, 2, 5]), np.asarray([0, 0, 1, 0])
    for mode in LEFT:
        assert mode.scored(lengths, prefixes).tolist() == [0, 0, 1, 4]
        assert (mode.copies(lengths) > 0).tolist() == [False, False, True, True]
    for mode in (PseudoLikelihood(IDS, False), DiffusionBound(IDS, False), CausalLikelihood(IDS)):
        assert mode.scored(lengths, prefixes).tolist() == lengths.tolist()


def test_a_bound_without_a_context_masks_scored_tokens_alone():
    copies = jnp.arange(8)
    rows = Rows(jnp.full((8, 8), 5), jnp.full(8, 4), jnp.zeros(8, int), copies, jnp.zeros(8, int))
    masked, count = map(np.asarray, jax.jit(DiffusionBound(IDS, True, 8, context=Context()).masks)(rows))
    assert not masked[:, 0].any() and not masked[:, 4:].any() and (masked.sum(axis=1) == count).all()
    assert set(count.tolist()) == {1, 2, 3}


@pytest.mark.parametrize("mode", LEFT[1:], ids=lambda mode: type(mode).__name__)
def test_a_mode_without_a_context_is_one_whose_first_token_is_given(mode):
    """A sentence alone is the sentence without its first token, read after that token."""
    whole, after = [9, 5, 6, 7], Context((9,))
    others = {"context": after} | {name: getattr(mode, name) for name in ("shifted", "samples") if hasattr(mode, name)}
    pairs = pair_sentences(paradigm((whole, whole)), encode)
    rest = pair_sentences(paradigm((whole[1:], whole[1:])), encode)
    if isinstance(mode, PrefixLikelihood):
        pairs.prefixes[:], rest.prefixes[:] = 2, 1
    else:
        pairs.prefixes[:] = rest.prefixes[:] = 0
    found = scorer()(mode, pairs).total
    np.testing.assert_allclose(found, scorer()(type(mode)(IDS, **others), rest).total, rtol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"normalisation": "avg"}, "PAIR_NORMALISATION is one of sum, mean, not 'avg'."),
        ({"context": "cls-sep"}, "none, not 'cls-sep'. Did you mean 'cls_sep'?"),
        ({"ties": "1"}, "TIES is one of half, right, wrong, not '1'."),
    ],
)
def test_an_unknown_convention_is_named(values, words):
    with pytest.raises(UserError) as caught:
        Convention(**values)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("pair", "context", "words"),
    [
        (([5, 6], []), None, "a.jsonl, line 2: 'sentence_bad' '' cannot be scored: it has no token."),
        (([5], [5, 6]), "none", "of its 1 token the mode causal scores none with CONTEXT = 'none'."),
    ],
)
def test_a_sentence_without_a_scored_token_is_an_error_that_names_its_line(pair, context, words):
    mode = CausalLikelihood(IDS, context=Convention(context=context).context_of(IDS))
    pairs = paradigm(([5, 6, 7], [5, 6]), pair)
    with pytest.raises(UserError) as caught:
        check_scored(pairs, pair_sentences(pairs, encode), {"causal": mode}, context)
    assert words in str(caught.value)
    fused = {"fused": Fused((PseudoLikelihood(IDS, False), mode))}
    with pytest.raises(UserError, match="cannot be scored"):
        check_scored(pairs, pair_sentences(pairs, encode), fused, context)
    check_scored(pairs[:0], pair_sentences((), encode), {"causal": mode}, context)


def test_the_convention_is_said():
    said = {
        str(Convention(*each)) for each in [(n, c, t) for n in NORMALISATIONS for c in (None, *CONTEXTS) for t in TIES]
    }
    assert len(said) == 2 * 6 * 3
    assert str(Convention("mean", "cls_sep", "right")) == (
        "mean a token of log-probabilities, read as <s> sentence </s>; a tie is right."
    )
