"""Decoding by a cache says what a slow loop over the growing text says; what is drawn follows the softmax."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st
from support.statistics import agrees, softmax

from mixlm.decoding.autoregressive import (
    Sampler,
    checked_sampler,
    decode_autoregressive,
    decoder_prompts,
    encoder_prompts,
    fill_spans,
)
from mixlm.decoding.beam import beam_search
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models.gpt_bert import GPTBert
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

IDS = TokenIds(vocab_size=24, mask=4, bos=3, sentinels=4)
GREEDY = Sampler()
LENGTH, ROOM = 6, 24
SIZES = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}
# In one layer a prefix that sees itself would change nothing behind it.
NETWORKS = {
    "decoder": DecoderOnly(vocab_size=24, num_layers=2, **SIZES),
    "llama": Llama(vocab_size=24, num_layers=2, init_std=0.3, **SIZES),
    "ltg_bert": LTGBert(vocab_size=24, num_layers=2, **SIZES),
    "gpt_bert": GPTBert(vocab_size=24, num_layers=2, **SIZES),
    "encoder_decoder": EncoderDecoder(vocab_size=24, num_encoder_layers=1, num_decoder_layers=1, **SIZES),
}
PROMPTS = [[3, 9, 11, 5, 17], [3, 8], [3, 12, 12, 6, 15, 7, 18, 9, 10, 13]]


@cache
def parameters(name):
    """Parameters of a network that does not say the same token everywhere."""
    found = meta.unbox(jax.jit(NETWORKS[name].init)(jax.random.key(3), *NETWORKS[name].inputs())["params"])
    return jax.tree.map(lambda leaf: 2.0 * jnp.asarray(leaf), found)


@partial(jax.jit, static_argnames="name")
def everything(params, example, name):
    return NETWORKS[name].apply({"params": params}, example)


def next_logits(name, prompt, said, bidirectional=False, encoder=None):
    """The scores of the token after one unpadded text, by the whole network over the whole text; one shape for all."""
    text = [*prompt, *said]
    tokens = np.zeros((1, ROOM), np.int32)
    tokens[0, : len(text)] = text
    place = np.arange(ROOM)[None]
    example = Example(
        jnp.asarray(tokens),
        jnp.asarray(tokens),
        jnp.zeros(tokens.shape),
        jnp.asarray((place >= len(prompt)) if bidirectional else place >= 0, jnp.int32),
        decoder_segment_ids=jnp.asarray(place < len(text), jnp.int32),
    )
    if encoder is not None:
        read = np.zeros((1, ROOM), np.int32)
        read[0, : len(encoder)] = encoder
        example = example.replace(encoder_input_tokens=jnp.asarray(read))
    return np.asarray(everything(parameters(name), example, name), np.float64)[0, len(text) - 1]


def slow_greedy(name, prompt, eos, **how):
    said = []
    while len(said) < LENGTH and eos not in said:
        said.append(int(np.argmax(next_logits(name, prompt, said, **how))))
    return said


def with_pad(said):
    return said + [0] * (LENGTH - len(said))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["decoder", "llama", "ltg_bert", "gpt_bert"])
def test_greedy_text_is_that_of_a_slow_loop(name, bidirectional):
    slow = [slow_greedy(name, prompt, eos=-1, bidirectional=bidirectional) for prompt in PROMPTS]
    assert len(np.unique(slow)) > 3  # Else any loop would do.
    # Whatever the first text says third shall end it: the others go on.
    ids = TokenIds(vocab_size=24, mask=4, bos=3, sentinels=4, eos=slow[0][2])
    slow = [slow_greedy(name, prompt, ids.eos, bidirectional=bidirectional) for prompt in PROMPTS]
    prompt = decoder_prompts(PROMPTS, bidirectional)
    found = decode_autoregressive(NETWORKS[name], parameters(name), prompt, row_keys(0, 0, 3), GREEDY, LENGTH, ids)
    np.testing.assert_array_equal(found.tokens, [with_pad(said) for said in slow])
    np.testing.assert_array_equal(found.calls, [len(said) for said in slow])


def test_a_bidirectional_prompt_is_not_read_as_a_causal_one():
    said = [[slow_greedy("llama", prompt, -1, bidirectional=both) for prompt in PROMPTS] for both in (False, True)]
    assert said[0] != said[1]


@pytest.mark.parametrize("name", ["encoder_decoder", "decoder"])
def test_an_encoders_prompt(name):
    if name == "decoder":
        # Without an encoder, its input is a bidirectional prefix and the text begins with the start token behind it.
        slow = [slow_greedy_behind_a_prefix(name, [*prompt, 1], IDS.bos) for prompt in PROMPTS]
    else:
        slow = [slow_greedy(name, [IDS.bos], IDS.eos, encoder=[*prompt, 1]) for prompt in PROMPTS]
    assert len({tuple(said) for said in slow}) > 1
    prompt = encoder_prompts([[*prompt, 1] for prompt in PROMPTS], IDS.bos)
    found = decode_autoregressive(NETWORKS[name], parameters(name), prompt, row_keys(0, 0, 3), GREEDY, LENGTH, IDS)
    np.testing.assert_array_equal(found.tokens, [with_pad(said) for said in slow])


def slow_greedy_behind_a_prefix(name, prefix, bos):
    said = []
    while len(said) < LENGTH and IDS.eos not in said:
        prompt, tail = prefix, [bos, *said]
        said.append(int(np.argmax(next_logits(name, prompt, tail, bidirectional=True))))
    return said


CHOOSE = jax.jit(lambda choice, logits, noise: choice(logits, noise))


def drawn(choice, logits, count=20_000, seed=5):
    noise = jax.random.uniform(jax.random.key(seed), (count,))
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, len(logits)))
    return np.bincount(np.asarray(CHOOSE(choice, rows, noise)), minlength=len(logits))


LOGITS = np.array([0.3, 2.0, -1.0, 1.5, 1.4, -0.2, 0.9, 0.0])


@pytest.mark.parametrize(
    ("choice", "shares"),
    [
        (Sampler(1.0), softmax(LOGITS)),
        (Sampler(0.5), softmax(LOGITS / 0.5)),
        (Sampler(2.0), softmax(LOGITS / 2.0)),
        (Sampler(1.0, 3), softmax(np.where(LOGITS >= 1.4, LOGITS, -np.inf))),
        # Of all of the probability, 1 holds 0.34, and 3 and 4 another 0.21 and 0.19.
        (Sampler(1.0, 0, 0.5), softmax(np.where(LOGITS >= 1.5, LOGITS, -np.inf))),
        (Sampler(1.0, 0, 0.6), softmax(np.where(LOGITS >= 1.4, LOGITS, -np.inf))),
        # Of the three that top_k leaves, 1 holds 0.46 and 3 another 0.28: top_p counts what top_k left.
        (Sampler(1.0, 3, 0.7), softmax(np.where(LOGITS >= 1.5, LOGITS, -np.inf))),
        # Temperature comes first: at 3 the two likeliest hold less than 0.4.
        (Sampler(3.0, 0, 0.4), softmax(np.where(LOGITS >= 1.4, LOGITS / 3, -np.inf))),
    ],
)
def test_what_is_drawn_follows_the_softmax(choice, shares):
    assert agrees(drawn(choice, LOGITS), shares)


def test_the_chi_square_can_fail():
    assert not agrees(drawn(Sampler(1.0), LOGITS), softmax(LOGITS / 1.1))


def slow_cut(logits, top_k, top_p):
    """The tokens that may be chosen, picked one by one."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[: top_k or None]
    shares = softmax(np.array([logits[token] for token in order]))
    kept, held = set(), 0.0
    for token, share in zip(order, shares):
        # float32 sums may fall on either side of an exact share.
        if kept and abs(held - top_p) < 1e-5 and top_p < 1:
            return None
        if kept and held >= top_p and top_p < 1:
            break
        kept.add(token)
        held += share
    return kept


CUT = jax.jit(lambda choice, logits: choice.cut(logits))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(-12, 12), min_size=8, max_size=8),
    st.integers(0, 9),
    st.sampled_from([0.001, 0.1, 0.3, 0.5, 0.77, 0.9, 0.999, 1.0]),
)
def test_the_support_is_exact(quarters, top_k, top_p):
    logits = np.array(quarters, np.float32) / 4  # Whole quarters: ties are frequent.
    wanted = slow_cut(logits, top_k, top_p)
    found = np.asarray(CUT(Sampler(1.0, jnp.int32(top_k), jnp.float32(top_p)), jnp.asarray(logits)))
    if wanted is not None:
        assert set(np.flatnonzero(np.isfinite(found)).tolist()) == wanted
        np.testing.assert_array_equal(found[sorted(wanted)], logits[sorted(wanted)])


def test_greedy_is_the_limit_of_a_low_temperature():
    assert drawn(Sampler(1e-35), LOGITS, 50)[1] == drawn(Sampler(0.0), LOGITS, 50)[1] == 50


@pytest.mark.parametrize("how", [{"temperature": -1.0}, {"top_k": -2}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_a_choice_that_chooses_nothing(how):
    with pytest.raises(UserError, match=next(iter(how))):
        checked_sampler(**{"temperature": 1.0} | how)


def test_sampled_texts_follow_the_network():
    rows, name = 4000, "llama"
    prompt, keys = decoder_prompts([PROMPTS[1]] * rows), row_keys(1, 0, rows)
    found = decode_autoregressive(NETWORKS[name], parameters(name), prompt, keys, Sampler(3.0), 2, IDS)
    tokens = np.asarray(found.tokens)
    first = softmax(next_logits(name, PROMPTS[1], []) / 3)
    assert agrees(np.bincount(tokens[:, 0], minlength=24), first)
    likely = int(np.argmax(np.where(np.arange(24) == IDS.eos, 0, first)))
    second = softmax(next_logits(name, PROMPTS[1], [likely]) / 3)
    assert agrees(np.bincount(tokens[tokens[:, 0] == likely, 1], minlength=24), second)


def test_a_row_is_drawn_by_its_own_key():
    keys = row_keys(7, 0, 3)
    run = partial(decode_autoregressive, NETWORKS["llama"], parameters("llama"), length=LENGTH, ids=IDS)
    together = run(prompt=decoder_prompts(PROMPTS), keys=keys, sampler=Sampler(1.0))
    again = run(prompt=decoder_prompts(PROMPTS), keys=keys, sampler=Sampler(1.0))
    np.testing.assert_array_equal(together.tokens, again.tokens)
    alone = run(prompt=decoder_prompts(PROMPTS[1:2]), keys=keys[1:2], sampler=Sampler(1.0))
    np.testing.assert_array_equal(together.tokens[1:2], alone.tokens)
    assert alone.calls[0] == together.calls[1]
    other = run(prompt=decoder_prompts(PROMPTS), keys=row_keys(8, 0, 3), sampler=Sampler(1.0))
    assert (np.asarray(other.tokens) != np.asarray(together.tokens)).any()


def test_one_executable_serves_all_choices():
    run = partial(
        decode_autoregressive, NETWORKS["decoder"], parameters("decoder"), decoder_prompts(PROMPTS), row_keys(0, 0, 3)
    )
    run(checked_sampler(1.0, 5, 0.9), LENGTH, IDS)
    compiled = decode_autoregressive._cache_size()
    for choice in (checked_sampler(0.0), checked_sampler(0.3, 0, 1.0), checked_sampler(2.0, 3, 0.5)):
        run(choice, LENGTH, IDS)
    assert decode_autoregressive._cache_size() == compiled


TINY = TokenIds(vocab_size=5, mask=4, bos=3, sentinels=0)
TINY_DECODER = DecoderOnly(vocab_size=5, num_layers=1, **SIZES)


@cache
def tiny_log_p(params_seed, text):
    """log p of each next token, over a whole unpadded text."""
    tokens = jnp.zeros((1, 8), jnp.int32).at[0, : len(text)].set(jnp.asarray(text))
    ones = jnp.ones_like(tokens)
    example = Example(tokens, ones, jnp.zeros(tokens.shape), ones)
    logits = np.asarray(tiny_everything(tiny_parameters(params_seed), example), np.float64)[0, len(text) - 1]
    return logits - np.log(np.sum(np.exp(logits - logits.max()))) - logits.max()


@cache
def tiny_parameters(seed):
    found = meta.unbox(jax.jit(TINY_DECODER.init)(jax.random.key(seed), *TINY_DECODER.inputs())["params"])
    return jax.tree.map(lambda leaf: 1.5 * jnp.asarray(leaf), found)


@jax.jit
def tiny_everything(params, example):
    return TINY_DECODER.apply({"params": params}, example)


def normalised(log_p, tokens, alpha):
    return log_p / ((5 + tokens) / 6) ** alpha


def every_text(length):
    """All texts that end with EOS (1) or with the room."""
    for size in range(1, length + 1):
        for text in itertools.product(range(5), repeat=size):
            if 1 not in text[:-1] and (text[-1] == 1 or size == length):
                yield text


def brute_force(seed, prompt, length, alpha):
    best = None
    for text in every_text(length):
        log_p = sum(tiny_log_p(seed, (*prompt, *text[:place]))[token] for place, token in enumerate(text))
        best = max(best or (-np.inf, ()), (normalised(log_p, len(text), alpha), text))
    return best


def slow_beams(log_p_after, beams, length, alpha):
    """Beam search over lists."""
    beginnings, finished = [(0.0, ())], []
    for _ in range(length):
        grown = [
            (log_p + step, (*text, token)) for log_p, text in beginnings for token, step in enumerate(log_p_after(text))
        ]
        finished += [(normalised(log_p, len(text), alpha), text) for log_p, text in grown if text[-1] == 1]
        beginnings = sorted((item for item in grown if item[1][-1] != 1), reverse=True)[:beams]
    finished += [(normalised(log_p, length, alpha), text) for log_p, text in beginnings]
    return max(finished)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize(("beams", "slow"), [(16, False), (2, True), (1, True)])
def test_beam_search_finds_the_best_text(beams, slow, alpha):
    starts, length = [(3, 2), (3, 0, 2, 4), (3,)], 3  # So that 16 beams hold every beginning.
    differing = 0
    for seed in (0, 1, 2):
        found = beam_search(TINY_DECODER, tiny_parameters(seed), decoder_prompts(starts), alpha, beams, length, TINY)
        for row, start in enumerate(starts):
            exact = brute_force(seed, start, length, alpha)

            def log_p_after(text, seed=seed, start=start):
                return tiny_log_p(seed, (*start, *text))

            score, text = slow_beams(log_p_after, beams, length, alpha) if slow else exact
            np.testing.assert_array_equal(found.tokens[row], [*text, *[0] * (length - len(text))])
            np.testing.assert_allclose(found.score[row], score, atol=1e-4)
            assert 1 <= found.calls[row] <= length
            differing += text != exact[1]
    assert differing or beams > 1  # One beam misses the best text somewhere, or the test is too easy.


def test_beams_over_an_encoders_prompt():
    prompt = encoder_prompts([[*row, 1] for row in PROMPTS], IDS.bos)
    found = beam_search(NETWORKS["encoder_decoder"], parameters("encoder_decoder"), prompt, 0.6, 3, 4, IDS)
    for row, read in enumerate(PROMPTS):

        def log_p_after(text, read=read):
            logits = next_logits("encoder_decoder", [IDS.bos], text, encoder=[*read, 1])
            return np.log(softmax(logits))

        score, text = slow_beams(log_p_after, 3, 4, 0.6)
        np.testing.assert_array_equal(found.tokens[row], [*text, *[0] * (4 - len(text))])
        np.testing.assert_allclose(found.score[row], score, atol=1e-4)


def test_beams_do_not_depend_on_other_rows():
    starts = [(3, 2), (3, 0, 2, 4), (3,)]
    run = partial(beam_search, TINY_DECODER, tiny_parameters(1), length_penalty=0.6, beams=3, length=6, ids=TINY)
    together = run(prompt=decoder_prompts(starts))
    for row in range(3):
        alone = run(prompt=decoder_prompts(starts[row : row + 1]))
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        assert alone.calls[0] == together.calls[row]


def test_spans_are_filled_greedily_from_bos_to_eos():
    name = "encoder_decoder"
    inputs = np.zeros((3, 12), np.int32)
    for row, prompt in enumerate(PROMPTS):
        inputs[row, : len(prompt)] = prompt
    for bos, eos in ((IDS.bos, IDS.eos), (9, slow_greedy(name, [9], -1, encoder=PROMPTS[0])[2])):
        found = fill_spans(NETWORKS[name], parameters(name), jnp.asarray(inputs), LENGTH, bos=bos, eos=eos)
        slow = [slow_greedy(name, [bos], eos, encoder=prompt) for prompt in PROMPTS]
        assert len(np.unique([with_pad(said) for said in slow])) > 3  # Else any loop would do.
        np.testing.assert_array_equal(found, [with_pad(said) for said in slow])


def test_segments_say_what_of_the_inputs_is_padding():
    name, inputs = "encoder_decoder", np.zeros((8, 6), np.int32)
    inputs[:, ::2] = np.random.default_rng(0).integers(5, 20, (8, 3))
    run = partial(fill_spans, NETWORKS[name], parameters(name), jnp.asarray(inputs), LENGTH, bos=IDS.bos, eos=IDS.eos)
    np.testing.assert_array_equal(run(segments=jnp.asarray(inputs > 0, jnp.int32)), run())
    # A generator may have put a pad there: a wrong token, and one to be read.
    assert (np.asarray(run(segments=jnp.ones_like(inputs))) != np.asarray(run())).any()
