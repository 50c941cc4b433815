"""Minimal pairs: what is read, what a pair is worth, and intervals that say what they claim."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.evaluation.conventions import Convention, scores_of
from mixlm.evaluation.likelihood import CausalLikelihood, Fused, PrefixLikelihood
from mixlm.evaluation.minimal_pairs import (
    Accuracies,
    Interval,
    accuracies,
    pair_sentences,
    resampled_means,
    score_pairs,
)
from mixlm.evaluation.pair_files import Paradigm
from mixlm.evaluation.perplexity import TextFigures
from mixlm.evaluation.scorer import Scores
from mixlm.evaluation.tables import draw, pair_rows, pairs_content, table, text_rows, write_csv, write_json
from mixlm.tokens import TokenIds

MODE = CausalLikelihood(TokenIds(vocab_size=32, mask=4, sentinels=6))


def letters(sentence):
    return [ord(word) for word in sentence.split()]


# What is scored


@given(good=st.lists(st.sampled_from("abc"), max_size=6), bad=st.lists(st.sampled_from("abc"), max_size=6))
def test_a_pair_s_prefix_is_common_and_leaves_something_to_score(good, bad):
    paradigm = Paradigm("p", "f", "t", (("x y", "x z"), (" ".join(good), " ".join(bad))))
    found = pair_sentences((paradigm,), letters)
    assert [list(tokens) for tokens in found.tokens] == [
        letters("x y"), letters(" ".join(good)), letters("x z"), letters(" ".join(bad)),
    ]  # fmt: skip
    assert found.noise.tolist() == [0, 1, 0, 1]
    assert found.prefixes[[0, 2]].tolist() == [1, 1]
    prefix = found.prefixes[1]
    assert prefix == found.prefixes[3] >= 0 and good[:prefix] == bad[:prefix]
    assert prefix < min(len(good), len(bad)) or prefix == 0
    longer = prefix + 1
    assert good[:longer] != bad[:longer] or longer >= min(len(good), len(bad))


# What a pair is worth


def judged(pairs, scores, samples=None, **options):
    """The accuracies where sentences have these scores; pairs are listed by paradigm as (paradigm, field, scores)."""
    sentences = pair_sentences(pairs, letters)
    found = Scores(np.asarray([scores[" ".join(map(chr, tokens))] for tokens in sentences.tokens], np.float64), samples)
    return score_pairs(lambda *_: found, MODE, pairs, sentences, "causal", **options)


PAIRS = (
    Paradigm("one", "syntax", "t", (("a a", "a b"), ("a b", "a a"), ("c", "d"), ("c", "c"))),
    Paradigm("two", "syntax", "t", (("a a", "a b"), ("a a", "c"))),
    Paradigm("three", "morphology", "t", (("d", "a a"),) * 10),
)
SCORES = {"a a": -1.0, "a b": -2.0, "c": -4.0, "d": -4.0}


def test_ties_are_worth_half_and_the_overall_is_the_mean_over_paradigms():
    found = judged(PAIRS, SCORES)
    assert {name: interval.value for name, interval in found.paradigms.items()} == {"one": 0.5, "two": 1, "three": 0}
    assert {name: interval.value for name, interval in found.fields.items()} == {"morphology": 0, "syntax": 0.75}
    assert found.overall.value == 0.5
    assert found.over_pairs.value == 4 / 16
    assert found.ties == 2 and found.unsure is None


def test_resamples_that_no_machine_holds_are_refused_before_they_are_drawn():
    with pytest.raises(UserError, match=r"The bootstrap needs .* resamples are .*; lower BOOTSTRAP_RESAMPLES"):
        judged(PAIRS, SCORES, resamples=10**12)


@pytest.mark.parametrize(("ties", "one", "overall"), [("right", 0.75, 7 / 12), ("wrong", 0.25, 5 / 12)])
def test_ties_may_count_as_right_or_as_wrong(ties, one, overall):
    found = judged(PAIRS, SCORES, convention=Convention(ties=ties))
    assert found.paradigms["one"].value == one and found.ties == 2
    assert found.overall.value == pytest.approx(overall)


def test_a_mean_is_of_the_scored_tokens():
    """`a a` costs 1 for two tokens and `c` 4 for one; the noise is divided too."""
    samples = np.asarray([[0.0, 2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    pairs = (Paradigm("p", "f", "t", (("a a", "c"), ("c", "a a"))),)
    sentences = pair_sentences(pairs, letters)
    raw = Scores(np.asarray([-1.0, -4.0, -4.0, -1.0]), samples)
    found = scores_of(lambda *_: raw, MODE, sentences, normalisation="mean")
    assert found.total.tolist() == [-0.5, -4.0, -4.0, -0.5] and found.samples[0].tolist() == [0.0, 1.0]
    prefix = PrefixLikelihood(MODE.tokens)
    both = scores_of(lambda *_: raw, Fused((MODE, prefix)), sentences, normalisation="mean")
    assert both.total.tolist() == [-1.0, -8.0, -8.0, -1.0] and both.samples is None


def test_infinite_costs_are_compared_as_numbers():
    """A network that has diverged may cost infinity: then two such sentences tie."""
    pairs = (Paradigm("p", "f", "t", (("a", "b"), ("a", "c"), ("c", "a"))),)
    found = judged(pairs, {"a": -math.inf, "b": -math.inf, "c": -1.0})
    assert found.ties == 1 and found.overall.value == 0.5


def test_equal_sentences_tie_whatever_their_scores():
    paradigm = Paradigm("p", "f", "t", (("a a", "a a"),))
    sentences = pair_sentences((paradigm,), letters)
    found = score_pairs(lambda *_: Scores(np.asarray([-1.0, -1.0000001])), MODE, (paradigm,), sentences)
    assert found.overall.value == 0.5


def test_a_pair_is_unsure_within_two_standard_errors_of_its_shared_noise():
    paradigm = Paradigm("p", "f", "t", (("a", "b"), ("c", "d")))
    shared = np.asarray([[0.0, 100.0], [0.0, 100.0]])
    # Standard errors of the differences: |2 - 0| / 2 = 1 for the first pair, 0.1 for the second.
    samples = np.concatenate([shared, shared + np.asarray([[0.0, 2.0], [0.0, 0.2]])])
    scores = {"a": -10.0, "b": -11.0, "c": -10.0, "d": -11.0}
    assert judged((paradigm,), scores, samples).unsure == 0.5


# Intervals


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_an_interval_is_the_binomial_s(share):
    right = (np.arange(400) < 400 * share).astype(np.float64)
    found = accuracies({"p": right}, {"p": "f"}, resamples=20000).overall
    half = 1.96 * math.sqrt(share * (1 - share) / 400)
    assert found.value == share
    np.testing.assert_allclose([found.low, found.high], [share - half, share + half], atol=0.004)


def test_resampling_is_a_slow_loop_over_pairs():
    draw_, right = np.random.default_rng(1), np.asarray([0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0])
    slow = np.asarray([draw_.choice(right, len(right)).mean() for _ in range(20000)])
    fast = resampled_means(right, 20000, (5,))
    np.testing.assert_allclose(fast.mean(), slow.mean(), atol=0.005)
    np.testing.assert_allclose(fast.std(), slow.std(), rtol=0.03)
    for percent in (5, 25, 75, 95):
        assert abs(np.quantile(fast, percent / 100) - np.quantile(slow, percent / 100)) <= 1 / 14


def test_intervals_of_means_shrink_as_independent_paradigms_do():
    right = {f"p{n}": np.tile([0.0, 1.0], 50) for n in range(16)}
    found = accuracies(right, dict.fromkeys(right, "f"), resamples=20000)
    alone, together = (x.high - x.low for x in (found.paradigms["p0"], found.overall))
    np.testing.assert_allclose(together, alone / 4, rtol=0.1)
    assert found.fields["f"] == found.overall


def test_intervals_are_a_function_of_seed_and_name():
    right = {"p": np.tile([0.0, 1.0], 500)}
    first = accuracies(right, {"p": "f"}, seed=1)
    more = accuracies({"q": np.ones(4), **right}, {"p": "f", "q": "g"}, seed=1)
    assert first.paradigms["p"] == more.paradigms["p"] == accuracies(right, {"p": "f"}, seed=1).paradigms["p"]
    assert first.paradigms["p"] != accuracies(right, {"p": "f"}, seed=2).paradigms["p"]


# What is shown


def made(value):
    interval = Interval(value, value - 0.01, value + 0.02)
    fields = {"morphology": interval, "syntax": interval}
    return Accuracies({name: interval for name in ("one", "two", "three")}, fields, interval, interval, 3, None)


def test_the_table_has_a_column_per_mode_and_fits():
    names = ["causal", "pll_shifted_next2", "diffusion_unshifted", "fused"]
    found = {name: made(0.1 * (number + 1)) for number, name in enumerate(names)}
    figures = {name: TextFigures("likelihood", 4, 1234, 5000, 2.0, 0.5, 1.5, math.nan) for name in names[:3]}
    figures["fused"] = None
    sections = {"text": text_rows(figures), "pairs": pair_rows(found)}
    wide, narrow = table(names, sections, 200), table(names, sections, 60)
    assert max(map(len, narrow)) <= 60 < max(map(len, wide))
    overall = [line.split() for line in wide if line.startswith("overall")]
    assert overall == [["overall", "10.0", "20.0", "30.0", "40.0"]]
    assert [line.split()[1:] for line in narrow if line.startswith("overall")] == [["10.0", "20.0", "30.0"], ["40.0"]]
    assert "19.0-22.0" in next(line for line in wide if "95%" in line)
    assert next(line for line in wide if line.startswith("perplexity")).split()[1:] == ["7.4", "7.4", "7.4", "-"]
    assert max(map(len, table(names, sections, 1))) < 60


def test_files_say_what_was_found(tmp_path):
    found = {"causal": judged(PAIRS, SCORES), "prefix": made(0.25)}
    write_csv(tmp_path / "p.csv", PAIRS, found)
    with (tmp_path / "p.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * (3 + 2 + 2)
    first = next(line for line in lines if line["name"] == "one")
    assert (first["mode"], first["level"], first["field"], first["pairs"]) == ("causal", "paradigm", "syntax", "4")
    assert float(first["accuracy"]) == 0.5 and float(first["low"]) <= 0.5 <= float(first["high"])
    syntax = next(line for line in lines if line["name"] == "syntax")
    assert (syntax["level"], syntax["pairs"], float(syntax["accuracy"])) == ("field", "6", 0.75)
    write_json(tmp_path / "p.json", pairs_content(PAIRS, found) | {"nan": math.nan})
    content = json.loads((tmp_path / "p.json").read_text())
    assert content["modes"]["causal"]["overall"]["value"] == 0.5 and content["nan"] is None
    assert content["pairs"] == {"one": 4, "two": 2, "three": 10}


def test_the_chart_is_a_picture_with_a_bar_per_mode(tmp_path):
    from matplotlib.image import imread

    draw({name: made(0.5) for name in "abcdefghij"}, tmp_path / "new" / "p.png", "title")
    picture = imread(tmp_path / "new" / "p.png")
    assert picture.shape[0] > 300 and picture.shape[1] > 300 and picture.std() > 0.05
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["p.png"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "file" / "p.json", {})
