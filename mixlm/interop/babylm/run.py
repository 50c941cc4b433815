"""Scores a run on BabyLM's zero-shot suites in every mode of its network, and files the answers for the collation."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from mixlm.errors import UserError, nearest
from mixlm.evaluation.likelihood import PseudoLikelihood
from mixlm.evaluation.modes import modes_of, select_modes
from mixlm.evaluation.questions import Answer, answer_sentences
from mixlm.evaluation.reading import Context
from mixlm.evaluation.sentences import Sentences
from mixlm.evaluation.tables import write, write_json
from mixlm.files import read_json
from mixlm.interop.babylm.suites import DATA, SPLITS, SUITES, Choice, Suite, choices
from mixlm.interop.babylm.words import ACQUISITION, READING, Word, acquisition_words, after, as_reading, reading_words
from mixlm.interop.hf.tokenizer import frame
from mixlm.interop.loaded import Loaded
from mixlm.network import EncoderDecoderNetwork

Say = Callable[[str], Any]
MAIN = "main"
MASKS = 3  # masks in the place of a word and of what follows it, by which the pipeline's masked backends read
# The pipeline's names of modes, which its collation knows; others go by their own.
DECODERS = {"causal": "causal", "pll_shifted": "mntp", "pll_unshifted": "mlm"}
ENCODER_DECODERS = {"prefix": "enc_dec_prefix", "filling": "enc_dec_mask", "causal": "enc_dec_causal"}
NAMES = (*dict.fromkeys(suite.name for suite in SUITES), "reading", "aoa")


@dataclass(frozen=True)
class Plan:
    """The suites that are here, and the folder of evaluation data that they lie in."""

    data: Path
    suites: tuple[Suite, ...] = ()
    reading: bool = False
    acquisition: Path | None = None

    @classmethod
    def of(cls, data: Path, names: Sequence[str] | None = None) -> "Plan":
        """The suites in `data`, or those in `names`; UserError for a name that there is not, and for no data."""
        plan = cls.found(data, names)
        check_here([plan], names)
        return plan

    @classmethod
    def found(cls, data: Path, names: Sequence[str] | None = None) -> "Plan":
        """Those suites, of all or of `names`, that are in `data`."""
        for name in names or ():
            if name not in NAMES:
                raise UserError(f"BabyLM has no suite {name!r}, only {', '.join(NAMES)}.{nearest(name, NAMES)}")
        wanted = set(NAMES if names is None else names)
        suites = tuple(suite for suite in SUITES if suite.name in wanted and (data / suite.folder).is_dir())
        reading = "reading" in wanted and (data / READING).is_file()
        aoa = next((data / path for path in ACQUISITION if "aoa" in wanted and (data / path).is_file()), None)
        return cls(data, suites, reading, aoa)

    @property
    def names(self) -> set[str]:
        """The names of the suites that are here."""
        others = {"reading": self.reading, "aoa": self.acquisition is not None}
        return {suite.name for suite in self.suites} | {name for name, there in others.items() if there}


def check_here(plans: Sequence[Plan], names: Sequence[str] | None) -> None:
    """Raises UserError where one of `names` is in none of the plans, and without `names` where they are empty."""
    here = set[str]().union(*(plan.names for plan in plans))
    missing = set(NAMES if names is None else names) - here
    if missing and (names is not None or not here):
        data = plans[0].data
        places = [str(data / place) for name in NAMES if name in missing for place in _places(name)]
        raise UserError(f"{data} has no {', '.join(places)}: put there what is so called in {DATA}.")


def _places(name: str) -> list[str]:
    """The folders or the file of a suite, within the evaluation data."""
    if name == "reading":
        return [str(READING)]
    return [str(ACQUISITION[0])] if name == "aoa" else [s.folder for s in SUITES if s.name == name][:1]


@dataclass(frozen=True)
class Judge:
    """A run in one mode; `folder` is where the pipeline files what it answers, `backend` its name of the mode."""

    loaded: Loaded
    name: str
    mode: Any
    folder: Path

    def scores(self, texts: Sequence[tuple[str, str, str, str]]) -> Float64[np.ndarray, " N"]:
        """The score of each (context, text, group, where): of the text given the context, in nats."""
        recipe = self.loaded.recipe
        answers = [Answer(*each) for each in texts]
        sentences, cut = answer_sentences(self.loaded.vocabulary, answers, recipe.block_length, recipe.before)
        if cut:
            self.loaded.say(
                f"{cut} of {len(answers)} contexts are longer than {recipe.block_length} tokens: cut on the left."
            )
        with self.loaded.compiled():
            return self.loaded.scorer.tokens(self.mode, sentences, self.name).total

    def surprisals(self, words: Sequence[Word]) -> list[float]:
        """`-log p` of each word after its context; masked modes read masks in place of what would follow."""
        texts = [(*after(each), each.where, each.where) for each in words]
        if not isinstance(self.mode, PseudoLikelihood):
            return (-self.scores(texts)).tolist()
        recipe = self.loaded.recipe
        whole, _ = answer_sentences(
            self.loaded.vocabulary, [Answer(*each) for each in texts], recipe.block_length - MASKS + 1, recipe.before
        )
        rows, places, owners = [], [], []
        for number, (tokens, prefix) in enumerate(zip(whole.tokens, whole.prefixes.tolist())):
            for place in range(prefix, len(tokens)):
                rows.append([*tokens[: place + 1], *[recipe.tokens.mask] * (MASKS - 1)])
                places.append(place)
                owners.append(number)
        sentences = Sentences(
            rows, np.asarray(places), np.zeros(len(rows), np.int64), None, [[0] * len(r) for r in rows]
        )
        with self.loaded.compiled():
            found = self.loaded.scorer.tokens(self.mode, sentences, self.name).log_p
        log_p = [float(row[place]) for row, place in zip(found, places)]
        return (-np.bincount(owners, weights=log_p, minlength=len(words))).tolist()


def judges(loaded: Loaded, modes: str | Sequence[str] | None, output: Path, revision: str) -> list[Judge]:
    """The modes, each reading sentences as the pipeline's backend of that name does from the run's export.

    Those of one mask read what the exported tokenizer puts around a text, in most exports BOS before it.
    """
    module, tokens, name = loaded.module, loaded.recipe.tokens, Path(loaded.run.folder.name).stem
    encoder = isinstance(module, EncoderDecoderNetwork)
    found = modes_of(module, tokens, answer=True, words=True)
    if not encoder:
        around = modes_of(module, tokens, context=Context(*frame(loaded.vocabulary)), answer=True, words=True)
        found |= {each: mode for each, mode in around.items() if each.startswith("pll_")}
    backends = ENCODER_DECODERS if encoder else DECODERS
    return [
        Judge(loaded, each, mode, output / name / revision / "zero_shot" / backends.get(each, each))
        for each, mode in select_modes(found, modes).items()
    ]


def evaluate(plan: Plan, judge: Judge, revision: str) -> Iterator[tuple[str, float | None]]:
    """Scores what is planned in one mode, and files it; yields each suite with its figure, None where it has none."""
    figures: dict[str, Any] = {}
    for suite in plan.suites:
        given = choices(suite, plan.data)
        answers, figures[suite.folder] = answered(judge, suite, given)
        write(judge.folder / suite.task / suite.folder / "predictions.json", json.dumps(answers))
        yield suite.folder, figures[suite.folder]["average"]
    if plan.reading:
        words, previous = zip(*reading_words(plan.data))
        there = [number for number, each in enumerate(previous) if each is not None]
        before = np.full(len(words), math.nan)
        before[there] = judge.surprisals([previous[number] for number in there])
        answers = as_reading(judge.surprisals(words), before.tolist())
        write(judge.folder / "reading" / "predictions.json", json.dumps(answers))
        yield "reading", None
    if plan.acquisition is not None and revision != MAIN:
        _acquire(plan.acquisition, judge, revision)
        yield "aoa", None
    write_json(judge.folder / "figures.json", figures)


def answered(judge: Judge, suite: Suite, given: Sequence[Choice]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (predictions by kind; percent right, or for WUG Spearman's rho in percent, by kind and on average)."""
    group = (f"{suite.folder} {number}" for number in range(len(given)))
    texts = [(*text, name, each.where) for each, name in zip(given, group) for text in each.texts]
    parts = np.split(judge.scores(texts), np.cumsum([len(each.texts) for each in given])[:-1])
    answers: dict[str, Any] = {}
    right: dict[str, list[float]] = {}
    first: list[float] = []
    for each, scores in zip(given, parts):
        chosen = int(np.argmax(scores))  # of equal scores the first
        said = answers.setdefault(each.uid, {"predictions": []})["predictions"]
        prediction: dict[str, Any] = {"id": f"{each.uid}_{len(said)}", "pred": each.said[chosen]}
        if each.ratio is not None:
            powers = np.exp(scores - scores.max())
            prediction["prob"] = float(powers[0] / powers.sum())
            first.append(prediction["prob"])
        said.append(prediction)
        right.setdefault(each.uid, []).append(100.0 * (chosen == 0))
    if first:
        rho = 100 * spearman(first, [each.ratio or 0.0 for each in given])
        return answers, {"average": rho}
    shares = {uid: float(np.mean(each)) for uid, each in right.items()}
    return answers, {"average": _average(suite, shares), "kinds": shares}


def _average(suite: Suite, shares: Mapping[str, float]) -> float:
    """The mean over kinds; of entity tracking the mean over its splits of theirs."""
    if suite.task != "entity_tracking":
        return float(np.mean(list(shares.values())))
    splits = [[share for uid, share in shares.items() if uid.startswith(split)] for split in SPLITS]
    found = [float(np.mean(each)) for each in splits if each]
    return float(np.mean(found)) if found else math.nan


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; NaN where all of one side are equal."""
    ranks = [_ranks(np.asarray(each, np.float64)) for each in (left, right)]
    a, b = (each - each.mean() for each in ranks)
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / spread if spread else math.nan


def _ranks(values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


def _acquire(path: Path, judge: Judge, revision: str) -> None:
    """Adds a checkpoint's surprisals to the one file of all checkpoints, in place of its former ones."""
    place = judge.folder.parents[2] / MAIN / "zero_shot" / judge.folder.name / "AoA_word" / "surprisal.json"
    targets = acquisition_words(path)
    found = judge.surprisals([each.word for each in targets])
    own = [
        {"step": revision, "target_word": each.word.word, "context_id": each.context_id, "context": each.context,
         "surprisal": surprisal}
        for each, surprisal in zip(targets, found)
    ]  # fmt: skip
    former = read_json(place, dict)["results"] if place.is_file() else []
    results = [each for each in former if each["step"] != revision] + own
    steps = len({each["step"] for each in results})
    head = {"model_name": judge.folder.parents[2].name, "use_bos_only": False, "total_steps": steps}
    write(place, json.dumps({"metadata": head | {"completed_steps": steps}, "results": results}))
