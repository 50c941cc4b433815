"""Minimal pairs: scored, and summed up per paradigm, field and overall with intervals."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from mixlm.errors import UserError
from mixlm.evaluation.base import Mode
from mixlm.evaluation.conventions import TIES, Convention, scores_of
from mixlm.evaluation.likelihood import Fused
from mixlm.evaluation.pair_files import SENTENCES, Paradigm
from mixlm.evaluation.perplexity import noise_errors
from mixlm.evaluation.scorer import Scores
from mixlm.evaluation.sentences import Sentences
from mixlm.perf.memory import Need, check_fits, host_bytes

LEVEL = 0.95  # of the intervals


@dataclass(frozen=True)
class Interval:
    """An accuracy with the percentiles of its bootstrap, as shares of 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Accuracies:
    """A mode's accuracies: BLiMP's overall is the mean over paradigms, a field's the mean over its paradigms.

    `over_pairs` is the mean over all pairs; `ties` counts the pairs of equal scores. `unsure` is the share of pairs
    whose difference lies within two standard errors of a diffusion bound's noise, None for other modes.
    """

    paradigms: Mapping[str, Interval]
    fields: Mapping[str, Interval]
    overall: Interval
    over_pairs: Interval
    ties: int
    unsure: float | None


def pair_sentences(paradigms: Sequence[Paradigm], encode: Callable[[str], list[int]]) -> Sentences:
    """All good sentences and then all bad ones, each with what its pair begins with, and the pair's noise.

    At least the last token of each sentence is left to be scored after its prefix.
    """
    pairs = [pair for paradigm in paradigms for pair in paradigm.pairs]
    good, bad = ([encode(pair[side]) for pair in pairs] for side in (0, 1))
    common = [max(min(_common(a, b), len(a) - 1, len(b) - 1), 0) for a, b in zip(good, bad)]
    number = np.arange(len(pairs))
    equal = np.asarray([len(a) == len(b) for a, b in zip(good, bad)], bool)
    twins = np.concatenate([np.where(equal, number + len(pairs), -1), np.where(equal, number, -1)])
    prefixes, noise = np.asarray([*common, *common], np.int64), np.concatenate([number, number])
    return Sentences([*good, *bad], prefixes, noise, twins=twins)


def check_scored(
    paradigms: Sequence[Paradigm], sentences: Sentences, modes: Mapping[str, Mode | Fused], context: str | None = None
) -> None:
    """Raises UserError for a sentence of which a mode scores no token: it would cost nothing, and win every pair."""
    texts = [(pair, place) for each in paradigms for pair, place in zip(each.pairs, each.places)]
    for name, mode in modes.items():
        for part in mode.parts if isinstance(mode, Fused) else (mode,):
            empty = np.flatnonzero(part.scored(sentences.lengths, sentences.prefixes) < 1)
            if len(empty):
                side, number = divmod(int(empty[0]), len(texts))
                pair, place = texts[number]
                tokens = len(sentences.tokens[empty[0]])
                reason = "it has no token"
                if tokens:
                    reason = f"of its {tokens} token{'s' * (tokens > 1)} the mode {name} scores none"
                    reason += f" with CONTEXT = {context!r}" * (context is not None)
                raise UserError(f"{place}: {SENTENCES[side]!r} {pair[side][:60]!r} cannot be scored: {reason}.")


def score_pairs(
    scorer: Callable[[Mode | Fused, Sentences, str], Scores],
    mode: Mode | Fused,
    paradigms: Sequence[Paradigm],
    sentences: Sentences,
    name: str = "",
    resamples: int = 1000,
    seed: int = 0,
    convention: Convention = Convention(),
) -> Accuracies:
    """Shares of pairs whose acceptable sentence scores higher; `sentences` are those of `pair_sentences`."""
    scores = scores_of(scorer, mode, sentences, name, convention.normalisation)
    half = len(scores.total) // 2
    good, bad = scores.total[:half], scores.total[half:]
    # Equal tokens are a tie, whatever the order of additions in a batch does to the last bit.
    same = np.asarray([list(a) == list(b) for a, b in zip(sentences.tokens[:half], sentences.tokens[half:])], bool)
    tied = same | (good == bad)
    right = np.where(tied, TIES[convention.ties], (good > bad).astype(np.float64))
    difference = np.subtract(good, bad, out=np.zeros(half), where=~tied)
    cuts = np.cumsum([len(paradigm.pairs) for paradigm in paradigms])[:-1]
    by_paradigm = {paradigm.name: part for paradigm, part in zip(paradigms, np.split(right, cuts))}
    fields = {paradigm.name: paradigm.field for paradigm in paradigms}
    return accuracies(by_paradigm, fields, resamples, seed, _unsure(scores, difference), int(tied.sum()))


def accuracies(
    right: Mapping[str, Float64[np.ndarray, " N"]],
    fields: Mapping[str, str],
    resamples: int = 1000,
    seed: int = 0,
    unsure: float | None = None,
    ties: int = 0,
) -> Accuracies:
    """Sums up what each pair of each paradigm is worth (1, 1/2 or 0), with 95% percentile bootstrap intervals.

    Pairs are resampled within their paradigm; a paradigm's resamples depend on the seed and its name alone.
    """
    # A mean of each resample is kept; the counts behind it and their copy are of one paradigm at a time.
    need = Need(f"{resamples:,} resamples", 8 * resamples * (len(right) + 2 * len(TIES)), "lower BOOTSTRAP_RESAMPLES")
    check_fits("The bootstrap", [need], host_bytes(), "this machine")
    means = {name: float(part.mean()) for name, part in right.items()}
    drawn = {name: resampled_means(part, resamples, (seed, zlib.crc32(name.encode()))) for name, part in right.items()}
    sizes = np.asarray([len(part) for part in right.values()], np.float64)

    def interval(names: Iterable[str], weights: Any = None) -> Interval:
        names = list(names)
        value = np.average([means[name] for name in names], weights=weights)
        spread = np.average([drawn[name] for name in names], axis=0, weights=weights)
        low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(float(value), float(low), float(high))

    return Accuracies(
        paradigms={name: interval([name]) for name in right},
        fields={
            field: interval(name for name in right if fields[name] == field)
            for field in sorted({fields[name] for name in right})
        },
        overall=interval(right),
        over_pairs=interval(right, sizes),
        ties=ties,
        unsure=unsure,
    )


def resampled_means(right: Float64[np.ndarray, " N"], resamples: int, seed: Sequence[int]) -> Float64[np.ndarray, " R"]:
    """The means of `resamples` samples of N pairs, drawn with replacement.

    A pair is worth 0, 1/2 or 1, so what a resample holds of each is multinomial, and no pair need be drawn.
    """
    worth = np.asarray(sorted(TIES.values()))
    shares = np.asarray([np.mean(right == value) for value in worth])
    counts = np.random.default_rng(list(seed)).multinomial(len(right), shares, size=resamples)
    return counts @ worth / len(right)


def _unsure(scores: Scores, difference: Float64[np.ndarray, " N"]) -> float | None:
    if scores.samples is None:
        return None
    half = len(difference)
    # The noise that a pair shares is in both sentences' samples, and so not in their difference.
    return float(np.mean(np.abs(difference) < 2 * noise_errors(scores.samples[:half] - scores.samples[half:])))


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """The number of leading tokens that two sentences share."""
    return next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))
