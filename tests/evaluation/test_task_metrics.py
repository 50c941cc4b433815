"""Metrics of tasks: those of independent implementations, whatever the targets and predictions."""

import math
from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.evaluation.tasks import metrics
from mixlm.evaluation.tasks.answers import Label, OfGroup, all_answers, human_eval, mbpp, number
from mixlm.evaluation.tasks.pass_at_k import pass_at_k

CLASSES = st.lists(st.tuples(st.integers(0, 1), st.integers(-1, 1)), min_size=1, max_size=30)


def counts(pairs):
    """(true positives, false positives, false negatives, true negatives) of pairs of a class and a prediction."""
    found = Counter((t, p if p >= 0 else 1 - t) for t, p in pairs)
    return found[1, 1], found[0, 1], found[1, 0], found[0, 0]


@settings(max_examples=30, deadline=None)
@given(CLASSES)
def test_metrics_of_two_classes_follow_from_the_four_counts(pairs):
    targets, predictions = map(list, zip(*pairs))
    tp, fp, fn, tn = counts(pairs)
    assert metrics.accuracy(targets, predictions)["accuracy"] == pytest.approx(100 * (tp + tn) / len(pairs))
    f1 = 2 * tp / (2 * tp + fp + fn) if tp else 0.0
    assert metrics.f1(targets, predictions)["f1"] == pytest.approx(100 * f1)
    if -1 not in predictions:
        under = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        phi = (tp * tn - fp * fn) / under if under else 0.0
        assert metrics.matthews(targets, predictions)["matthews"] == pytest.approx(100 * phi)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_correlations_are_those_of_numpy(pairs):
    targets, predictions = (np.asarray(each, float) for each in zip(*pairs))
    flat = min(len(set(targets)), len(set(predictions))) < 2

    def ranks(values):
        return np.asarray([np.mean(np.flatnonzero(np.sort(values) == value)) for value in values])

    pearson = 0.0 if flat else 100 * np.corrcoef(targets, predictions)[0, 1]
    spearman = 0.0 if flat else 100 * np.corrcoef(ranks(targets), ranks(predictions))[0, 1]
    assert metrics.pearson(list(targets), list(predictions))["pearson"] == pytest.approx(pearson, abs=1e-6)
    assert metrics.spearman(list(targets), list(predictions))["spearman"] == pytest.approx(spearman, abs=1e-6)


def test_a_mean_of_classes_counts_a_class_that_is_never_said():
    # Class 0: 1 of 1 right and no other; class 1 is never said; class 2: said twice, once rightly.
    found = metrics.macro_f1(3)([0, 1, 2, 2], [0, 2, 2, -1])
    assert found == {"mean_3class_f1": pytest.approx(100 * (1 + 0 + 0.5) / 3)}


@pytest.mark.parametrize(
    ("answers", "said", "em", "f1"),
    [
        (["the Denver Broncos"], "Denver  Broncos!", 100, 100),
        (["gold", "a golden anniversary"], "the anniversary", 0, 100 * 2 / 3),
        (["1 2 3 4"], "4 4 5", 0, 100 * 2 / 7),  # a word counts as often as both have it
        (["theory"], "ory", 0, 0),  # no article inside of a word
        (["the"], "an", 100, 0),  # no words are left: equal, and nothing shared
    ],
)
def test_squad_ignores_case_punctuation_and_articles(answers, said, em, f1):
    assert metrics.squad([answers], [said]) == {"em": pytest.approx(em), "f1": pytest.approx(f1)}


def test_all_answers_of_a_question_must_be_right():
    label = OfGroup(Label(("False", "True")))
    rows = [(0, "True", "True"), (0, "False", "True"), (1, "True", "True"), (1, "False", "False")]
    targets = [label(target, {"idx/question": group}, is_target=True) for group, target, _ in rows]
    predictions = [label(said, {}, is_target=False) for *_, said in rows]
    assert metrics.multirc(targets, predictions) == {"f1": pytest.approx(80), "exact_match": 50}


def test_bleu_is_that_of_its_formula():
    """Of its words, pairs, triples and fours 6 of 7, 4 of 6, 3 of 5 and 2 of 4 are right; none is too short."""
    found = metrics.bleu(["the cat sat on the old mat"], ["the cat sat on the red mat"])["bleu"]
    assert found == pytest.approx(100 * (6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25)
    assert metrics.bleu([["a b c d e", "x y z v w"], ["k l m n o"]], ["x y z v w", "k l m n o"])["bleu"] > 99.9


def test_rouge_is_that_of_its_formula():
    found = metrics.rouge(["a b c d", "e f"], ["a b x d", "g"])
    assert found["rouge1"] == pytest.approx(100 * (3 / 4) / 2) and found["rouge2"] == pytest.approx(100 * (1 / 3) / 2)
    # Rouge-Lsum is computed by sentences: in another order their words still count.
    assert metrics.rouge(["a b c . d e f"], ["d e f . a b c"])["rougeLsum"] == pytest.approx(100)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_k_samples_with_one_that_passes(drawn):
    samples, passed, k = drawn
    chosen = list(combinations(range(samples), k))
    share = Fraction(sum(any(place < passed for place in each) for each in chosen), len(chosen))
    assert pass_at_k(samples, passed, k) == pytest.approx(float(share))


def test_texts_become_what_is_compared():
    label = Label(("no", "yes"))
    assert [label(" yes"), label("maybe"), label("no", is_target=True)] == [1, -1, 0]
    with pytest.raises(UserError, match=r"The target 'yess' is none of the classes 'no', 'yes'. Did you mean 'yes'"):
        label("yess", is_target=True)
    assert [number("2.5"), number("two")] == [2.5, -1.0]
    assert all_answers("", {"answers": [b"a", "b"]}, is_target=True) == ["a", "b"]
    with pytest.raises(UserError, match=r"no feature 'answers', it has answer. Did you mean 'answer'"):
        all_answers("", {"answer": "a"}, is_target=True)
    tests = mbpp("", {"test_setup_code": "import math", "test_list": [b"assert f(1)", "assert f(2)"]}, is_target=True)
    assert tests == "import math\nassert f(1)\nassert f(2)"
    example = {"prompt": "def f(x):\n", "test": "def check(c):\n    assert c(1) == 2", "entry_point": "f"}
    assert human_eval("return x + 1\ndef g(): pass", example) == "def f(x):\n    return x + 1"
    assert human_eval("", example, is_target=True) == "def check(c):\n    assert c(1) == 2\ncheck(f)\n"
    assert human_eval(["    return 1", "return 2"], example) == ["def f(x):\n    return 1", "def f(x):\n    return 2"]
