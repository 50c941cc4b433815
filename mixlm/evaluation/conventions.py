"""Conventions by which evaluators judge minimal pairs: what is read around a sentence, how scores are normalised, ties.

`gin/evaluation/` has those of BabyLM's pipelines, of lm-evaluation-harness and of minicons by name.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mixlm.errors import UserError, nearest
from mixlm.evaluation.base import Mode
from mixlm.evaluation.likelihood import Fused
from mixlm.evaluation.reading import Context
from mixlm.evaluation.scorer import Scores
from mixlm.evaluation.sentences import Sentences
from mixlm.tokens import TokenIds

# bos is also the CLS of a vocabulary, and eos its SEP: SentencePiece has no others.
CONTEXTS: Mapping[str, Callable[[TokenIds], Context]] = {
    "bos": lambda tokens: Context((tokens.bos,)),
    "eos": lambda tokens: Context((tokens.eos,)),
    "cls_sep": lambda tokens: Context((tokens.bos,), (tokens.eos,)),
    "cls_eos_sep": lambda tokens: Context((tokens.bos, tokens.eos), (tokens.eos,)),
    "none": lambda tokens: Context(),
}
NORMALISATIONS = ("sum", "mean")
TIES = {"half": 0.5, "right": 1.0, "wrong": 0.0}  # what a pair of equal scores is worth

_READ = {
    "bos": "<s> sentence",
    "eos": "</s> sentence",
    "cls_sep": "<s> sentence </s>",
    "cls_eos_sep": "<s> </s> sentence </s>",
    "none": "the sentence alone",
}


@dataclass(frozen=True)
class Convention:
    """The convention by which minimal pairs are judged.

    A sentence's score is the sum or the mean of its tokens' log-probabilities (`normalisation`). `context` names what
    is read around it (None: what each mode reads by itself); it is not scored. `ties` says what equal scores are worth.
    """

    normalisation: str = "sum"
    context: str | None = None
    ties: str = "half"

    def __post_init__(self) -> None:
        _check("PAIR_NORMALISATION", self.normalisation, NORMALISATIONS)
        _check("TIES", self.ties, TIES)
        if self.context is not None:
            _check("CONTEXT", self.context, CONTEXTS)

    def context_of(self, tokens: TokenIds) -> Context | None:
        """The special tokens around a sentence; None for those that each mode reads by itself."""
        return None if self.context is None else CONTEXTS[self.context](tokens)

    def __str__(self) -> str:
        score = "sum of" if self.normalisation == "sum" else "mean a token of"
        read = "in each mode's own context" if self.context is None else f"read as {_READ[self.context]}"
        tie = "counts half" if self.ties == "half" else f"is {self.ties}"
        return f"{score} log-probabilities, {read}; a tie {tie}."


def scores_of(
    scorer: Callable[[Mode | Fused, Sentences, str], Scores],
    mode: Mode | Fused,
    sentences: Sentences,
    name: str = "",
    normalisation: str = "sum",
) -> Scores:
    """The scores of sentences, for "mean" divided by their scored tokens; a fused mode adds up those of its parts."""
    if isinstance(mode, Fused):
        parts = [scores_of(scorer, part, sentences, name, normalisation) for part in mode.parts]
        return Scores(np.sum([part.total for part in parts], axis=0))
    scores = scorer(mode, sentences, name)
    if normalisation == "sum":
        return scores
    count = mode.scored(sentences.lengths, sentences.prefixes).astype(np.float64)
    return Scores(scores.total / count, None if scores.samples is None else scores.samples / count[:, None])


def _check(macro: str, value: object, known: Iterable[str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{macro} is one of {', '.join(known)}, not {value!r}.{nearest(str(value), known)}")
