"""Metrics of tasks, as functions in seqio's sense: of targets and predictions, in percent, by name.

They are computed by scikit-learn, SciPy, sacrebleu and rouge_score, which the extra `metrics` installs.
"""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from mixlm.errors import UserError

# The two that SQuAD's evaluation leaves out of an answer: arXiv 1606.05250, section 6.1.
ARTICLES, PUNCTUATION = re.compile(r"\b(a|an|the)\b"), str.maketrans("", "", string.punctuation)


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """The share of predictions that equal their target."""
    return {"accuracy": _share(target == said for target, said in zip(targets, predictions))}


def sequence_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """The share of texts that are their target, character by character."""
    return {"sequence_accuracy": _share(target == said for target, said in zip(targets, predictions))}


def f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """F1 of class 1 of two; a prediction that is no class counts as the wrong one, as T5 has it."""
    truth, said = np.asarray(targets), np.asarray(predictions)
    said = np.where((said == 0) | (said == 1), said, 1 - truth)
    return {"f1": 100 * float(_library("sklearn.metrics").f1_score(truth, said, zero_division=0))}


def macro_f1(classes: int) -> Callable[..., dict[str, float]]:
    """The mean of the F1 of classes 0 to `classes` - 1, for CB; a prediction that is no class is right for none."""

    def mean_f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
        score = _library("sklearn.metrics").f1_score
        found = score(targets, predictions, labels=list(range(classes)), average="macro", zero_division=0)
        return {f"mean_{classes}class_f1": 100 * float(found)}

    return mean_f1


def matthews(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Matthews correlation, for CoLA: 0 where either side has one class alone."""
    if len(set(targets)) < 2 or len(set(predictions)) < 2:
        return {"matthews": 0.0}
    return {"matthews": 100 * float(_library("sklearn.metrics").matthews_corrcoef(targets, predictions))}


def pearson(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Pearson correlation, for STS-B: 0 where either side is constant."""
    return {"pearson": _correlation("pearsonr", targets, predictions)}


def spearman(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Spearman's rank correlation: 0 where either side is constant."""
    return {"spearman": _correlation("spearmanr", targets, predictions)}


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """SQuAD's exact match and F1 of words, against the best of each question's answers.

    Both ignore case, punctuation and articles (arXiv 1606.05250, section 6.1). No answer is the empty text.
    """
    exact, overlap = [], []
    for answers, said in zip(targets, predictions):
        words = answer_words(said)
        right = [answer_words(answer) for answer in answers]
        exact.append(max((words == each for each in right), default=False))
        overlap.append(max((word_f1(each, words) for each in right), default=0.0))
    return {"em": _share(exact), "f1": _share(overlap)}


def answer_words(text: str) -> list[str]:
    """The words of an answer that SQuAD compares."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def word_f1(target: Sequence[str], said: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of two bags of words; 0 where they share none."""
    common = sum((Counter(target) & Counter(said)).values())
    return 2 * common / (len(target) + len(said)) if common else 0.0


def multirc(targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """MultiRC's F1 over all answers, and the share of questions whose answers are all right.

    Targets are `{"group": question, "value": class}`, predictions `{"value": class}` (see `answers.OfGroup`).
    """
    values = [each["value"] for each in targets], [each["value"] for each in predictions]
    questions: dict[Any, list[bool]] = defaultdict(list)
    for target, right in zip(targets, map(lambda a, b: a == b, *values)):
        questions[target["group"]].append(right)
    return {"f1": f1(*values)["f1"], "exact_match": _share(map(all, questions.values()))}


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-Lsum, the means of the texts' F-measures by rouge_score, without stemming.

    T5 reports the median of a bootstrap of these means, which this mean is but for its noise. Sentences end at " . ".
    """
    kinds = ["rouge1", "rouge2", "rougeLsum"]
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(kinds)
    found = [scorer.score(_by_line(target), _by_line(said)) for target, said in zip(targets, predictions)]
    return {kind: _share(each[kind].fmeasure for each in found) for kind in kinds}


def bleu(targets: Sequence[str] | Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """BLEU by sacrebleu with its tokenizer "intl", as T5 has it; targets are texts, or lists of references."""
    references = [[each] if isinstance(each, str) else list(each) for each in targets]
    most = max(map(len, references), default=0)
    # sacrebleu wants streams of references; a text that has fewer has None in the others.
    streams = [[each[place] if place < len(each) else None for each in references] for place in range(most)]
    found = _library("sacrebleu").corpus_bleu(list(predictions), streams, tokenize="intl")
    return {"bleu": float(found.score)}


def _by_line(text: str) -> str:
    return text.replace(" . ", " .\n")


def _share(values: Any) -> float:
    found = [float(value) for value in values]
    return 100 * sum(found) / len(found) if found else 0.0


def _correlation(name: str, targets: Sequence[float], predictions: Sequence[float]) -> float:
    if len(set(targets)) < 2 or len(set(predictions)) < 2:
        return 0.0
    return 100 * float(getattr(_library("scipy.stats"), name)(targets, predictions)[0])


def _library(name: str) -> ModuleType:
    """An optional library; UserError that says how to install it."""
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"A metric needs {name.partition('.')[0]}: pip install 'mixlm[metrics]'.") from None
