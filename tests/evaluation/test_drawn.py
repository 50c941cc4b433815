"""Positions drawn in place of all: unbiased, with errors that cover; few executables, and a bar that counts."""

import io
import sys
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given
from hypothesis import strategies as st
from support.slow_scores import SlowScores

from mixlm.cli.evaluate import every_position
from mixlm.errors import UserError
from mixlm.evaluation import watch
from mixlm.evaluation.buckets import padded_lengths
from mixlm.evaluation.drawn import Draw, every
from mixlm.evaluation.likelihood import CausalLikelihood, DiffusionBound, Fused, PseudoLikelihood
from mixlm.evaluation.perplexity import Text, noise_errors, ratio, text_figures
from mixlm.evaluation.run import Scoring
from mixlm.evaluation.scorer import Scorer, row_scores
from mixlm.evaluation.sentences import Sentences, counts_of
from mixlm.evaluation.watch import Watch
from mixlm.models.llama import Llama
from mixlm.parallel.mesh import Partitioning
from mixlm.tokens import TokenIds

TOKENS = TokenIds(vocab_size=32, mask=4, bos=3, sentinels=6)
LLAMA = Llama(vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_layers=1, init_std=0.4)
X = np.random.default_rng(3).integers(5, 26, 9).tolist()
PLL = PseudoLikelihood(TOKENS, True)


class Shrug(nn.Module):
    """Finds every token equally likely, at once."""

    def hidden(self, example):
        return jnp.zeros((*example.decoder_input_tokens.shape, 2))

    def logits(self, hidden):
        return jnp.zeros((*hidden.shape[:-1], 32))


@cache
def params_of(module):
    if isinstance(module, Shrug):
        return {}
    found = jax.jit(lambda: meta.unbox(module.init(jax.random.key(1), *module.inputs())["params"]))()
    return jax.tree.map(lambda leaf: np.asarray(leaf) * 1.5, found)


def scorer(module=LLAMA, **settings):
    return Scorer(module, params_of(module), Partitioning().mesh(jax.devices()[:1]), **settings)


def sentences(tokens, draw=None):
    return Sentences(tokens, np.zeros(len(tokens), np.int64), np.arange(len(tokens)), draw=draw)


@given(
    copies=st.lists(st.integers(0, 9), min_size=1, max_size=6), rows=st.sampled_from([2, 4, 6]), seed=st.integers(0, 99)
)
def test_what_is_drawn_are_rows_of_each_sentence_and_all_of_them_where_they_are_few(copies, rows, seed):
    copies = np.asarray(copies)
    draw, values = Draw(rows, seed), np.random.default_rng(seed).normal(size=copies.sum())
    ends = np.cumsum(copies)
    counts, numbers = draw.counts(copies), draw.numbers(copies)
    owner = np.repeat(np.arange(len(copies)), counts)
    assert (numbers >= 0).all() and (numbers < copies[owner]).all()
    found = draw.samples(values[(ends - copies)[owner] + numbers], copies).mean(axis=1)
    whole = np.bincount(np.repeat(np.arange(len(copies)), copies), weights=values, minlength=len(copies))
    np.testing.assert_allclose(found[copies <= rows], whole[copies <= rows], atol=1e-12)
    assert numbers[(copies <= rows)[owner]].tolist() == every(copies[copies <= rows]).tolist()
    # A sentence's draw is the same whatever follows it.
    part = draw.numbers(copies[:1])
    assert part.tolist() == numbers[: len(part)].tolist()


@pytest.mark.parametrize(("rows", "length"), [(4, 7), (6, 20), (16, 128)])
def test_a_drawn_sum_is_unbiased_and_knows_its_error(rows, length):
    repeats = 20_000
    copies = np.full(repeats, length)
    values = np.random.default_rng(1).gamma(2.0, size=length)
    numbers = Draw(rows, 5).numbers(copies)
    found = Draw(rows, 5).samples(values[numbers], copies)
    spread = found.mean(axis=1).std(ddof=1)
    assert abs(found.mean() - values.sum()) < 4 * spread / np.sqrt(repeats)
    # Each row is drawn as often as any other.
    wanted = repeats * rows / length
    assert (abs(np.bincount(numbers, minlength=length) - wanted) < 5 * np.sqrt(wanted)).all()
    assert 1 <= np.mean(noise_errors(found) ** 2) / spread**2 < 2


def test_intervals_over_rows_cover_the_mean_of_the_text_that_rows_are_of():
    """Rows differ, and of each 8 positions are drawn: 95% intervals of two standard errors hold the mean as often."""
    random, rows, length, held = np.random.default_rng(0), 64, 128, []
    for seed in range(1000):
        sizes = random.integers(60, length, rows)
        costs = 3.0 + random.normal(0, 0.4, (rows, 1)) + random.gamma(1.0, 2.0, (rows, length)) - 2.0
        draw = Draw(8, seed)
        owner = np.repeat(np.arange(rows), draw.counts(sizes))
        drawn = draw.samples(costs[owner, draw.numbers(sizes)], sizes).mean(axis=1)
        mean, error = ratio(drawn, sizes)
        held.append(abs(mean - 3.0) < 2 * error)
    assert 0.93 < np.mean(held) < 0.975


def test_drawn_pseudo_likelihoods_are_those_of_a_slow_loop_on_average():
    x, repeats = X, 600
    wanted = SlowScores(LLAMA, params_of(LLAMA), TOKENS).answer(PLL, x, 0)[0]
    found = scorer(batch_tokens=4096)(PLL, sentences([x] * repeats, Draw(2, 3)))
    spread = found.total.std(ddof=1)
    assert abs(found.total.mean() - wanted) < 4 * spread / np.sqrt(repeats) and spread > 1e-3
    # The noise samples of a bound are drawn by the bound itself.
    assert counts_of(DiffusionBound(TOKENS, True, 4), sentences([x], Draw(2))).tolist() == [4]


def test_figures_of_drawn_positions_are_of_the_whole_text_with_an_error_for_what_was_drawn():
    rows = [np.random.default_rng(n).integers(5, 26, 12).tolist() for n in range(6)]
    figures = [
        text_figures(scorer(), PLL, Text(sentences(rows, draw), np.arange(6)), TOKENS.unk, "pll")
        for draw in (None, Draw(12), Draw(4))
    ]
    assert figures[0].noise_error is None and figures[1].noise_error is None  # nothing was drawn
    assert [each.read for each in figures] == [72, 72, 24]
    assert {each.tokens for each in figures} == {72}
    assert figures[1].nats_per_token == pytest.approx(figures[0].nats_per_token, rel=1e-6)
    assert figures[2].noise_error > 0 and figures[2].nats_per_token != figures[0].nats_per_token
    assert abs(figures[2].nats_per_token - figures[0].nats_per_token) < 4 * figures[2].noise_error


@pytest.mark.parametrize("rows", [0, 1, 5, -2])
def test_positions_are_an_even_number(rows):
    with pytest.raises(UserError, match=f"SCORED_POSITIONS is an even number above 0, or None .* not {rows}"):
        Scoring(positions=rows)
    assert Scoring(positions=None).draw is None and Scoring(seed=7).draw == Draw(16, 7)


def test_flags_that_ask_for_every_position_are_the_macro_and_refuse_another():
    assert every_position(["--gin_file=a", "--all"], False) == ["--gin_file=a", "--gin.SCORED_POSITIONS=None"]
    assert every_position(["--gin_file=a"], True) == ["--gin_file=a", "--gin.SCORED_POSITIONS=None"]
    assert every_position(["--gin.SCORED_POSITIONS=4"], False) == ["--gin.SCORED_POSITIONS=4"]
    for argv, scores, flag in ((["--all"], False, "--all"), ([], True, "--scores")):
        with pytest.raises(UserError, match=f"{flag} scores every position of the text: leave out --gin.SCORED_POS"):
            every_position([*argv, "--gin.SCORED_POSITIONS=4"], scores)


# Executables


def test_lengths_are_padded_to_few():
    lengths = np.arange(1, 513)
    many = np.full(512, 10_000)
    found = padded_lengths(lengths, many)
    assert np.unique(found).tolist() == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    assert (found >= lengths).all() and (found < lengths * 1.5 + 8).all()


def test_few_sentences_are_padded_with_longer_ones():
    lengths = np.asarray([3, 5, 8, 9, 10, 17, 40])
    assert padded_lengths(lengths, np.ones(7, np.int64)).tolist() == [40] * 7
    # 4,096 rows are padded by 8 in the time of a compilation.
    assert padded_lengths(np.asarray([8, 16]), np.asarray([4095, 1])).tolist() == [16, 16]
    assert padded_lengths(np.asarray([8, 16]), np.asarray([4096, 1])).tolist() == [8, 16]
    assert padded_lengths(np.asarray([8, 60]), np.asarray([1, 0])).tolist()[0] == 8


def test_each_mode_has_an_executable_for_each_padded_length():
    lengths = [*range(1, 130), *[8] * 5000]
    many = sentences([[5] * length for length in lengths])
    padded = padded_lengths(many.lengths, np.ones(len(lengths), np.int64))
    assert len(np.unique(padded)) == 2
    before = row_scores._cache_size()
    read = []
    score = scorer(Shrug(), watch=lambda name, tokens: read.append((name, tokens)))
    score(CausalLikelihood(TOKENS), many, "causal")
    assert row_scores._cache_size() - before == 2
    # What the bar counts is what is read.
    assert sum(tokens for _, tokens in read) == score.read(CausalLikelihood(TOKENS), many)[CausalLikelihood(TOKENS)]
    assert {name for name, _ in read} == {"causal"} and len(read) > 5
    assert score.read(Fused((CausalLikelihood(TOKENS), PLL)), sentences([[5] * 8])) == {
        CausalLikelihood(TOKENS): 8, PLL: 64,
    }  # fmt: skip


# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_with_the_time_left_and_a_log_a_line_now_and_then(monkeypatch):
    terminal, log, quiet = Terminal(), io.StringIO(), io.StringIO()
    for stream, seconds in ((terminal, 10.0), (log, 0.0), (quiet, 10.0)):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(watch, "QUIET", seconds)
        with Watch(300) as told:
            told("causal", 100)
            told("pll_shifted", 100)
    assert quiet.getvalue() == ""
    assert [line.split()[:2] for line in log.getvalue().splitlines()] == [
        ["100/300", "causal"],
        ["200/300", "pll_shifted"],
    ]
    assert log.getvalue().splitlines()[0].endswith("left")
    assert "200/300" in terminal.getvalue() and "left  pll_shifted" in terminal.getvalue()
