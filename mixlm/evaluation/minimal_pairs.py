"""Minimal pairs in BLiMP's format: read, scored, and summed up per paradigm, field and overall with intervals."""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from mixlm.errors import UserError, nearest
from mixlm.evaluation.likelihood import Fused, Mode
from mixlm.evaluation.perplexity import noise_errors
from mixlm.evaluation.scorer import Scores, Sentences
from mixlm.paths import local

TFDS = "tfds:"
SENTENCES = ("sentence_good", "sentence_bad")
LEVEL = 0.95  # of the intervals
TIE = 0.5  # what a pair of equal scores is worth


@dataclass(frozen=True)
class Paradigm:
    """Pairs (acceptable, unacceptable) of one kind, and the field and term of linguistics that they belong to."""

    name: str
    field: str
    term: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Interval:
    """An accuracy with the percentiles of its bootstrap, as shares of 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Accuracies:
    """A mode's accuracies: BLiMP's overall is the mean over paradigms, a field's the mean over its paradigms.

    `over_pairs` is the mean over all pairs; `ties` counts the pairs of equal scores, worth half. `unsure` is the share
    of pairs whose difference lies within two standard errors of a diffusion bound's noise, None for other modes.
    """

    paradigms: Mapping[str, Interval]
    fields: Mapping[str, Interval]
    overall: Interval
    over_pairs: Interval
    ties: int
    unsure: float | None


def read_pairs(place: str, limit: int | None = None) -> tuple[Paradigm, ...]:
    """The paradigms of a folder of JSONL files, or of the TFDS builder NAME where `place` is "tfds:NAME".

    Each line holds `sentence_good` and `sentence_bad`, and may hold `UID`, `field` and `linguistics_term`, for which
    the file's name stands in. Of each paradigm the first `limit` pairs are taken, None for all. Raises UserError for a
    folder, a line or a builder that cannot be read.
    """
    if place.startswith(TFDS):
        records = _tfds_records(place.removeprefix(TFDS))
    else:
        records = _folder_records(local(place, "MINIMAL_PAIRS"))
    found: dict[str, tuple[str, str, list[tuple[str, str]]]] = {}
    for name, record in records:
        uid = str(record.get("UID", name))
        # BLiMP spells one of its fields both syntax_semantics and syntax/semantics.
        field, term = (str(record.get(key, name)).replace("/", "_") for key in ("field", "linguistics_term"))
        pairs = found.setdefault(uid, (field, term, []))[2]
        if limit is None or len(pairs) < limit:
            pairs.append((record["sentence_good"], record["sentence_bad"]))
    if not found:
        raise UserError(f"The files in {place} hold no pair of sentences.")
    return tuple(Paradigm(uid, field, term, tuple(pairs)) for uid, (field, term, pairs) in found.items())


def pair_sentences(paradigms: Sequence[Paradigm], encode: Callable[[str], list[int]]) -> Sentences:
    """All good sentences and then all bad ones, each with what its pair begins with, and the pair's noise.

    At least the last token of each sentence is left to be scored after its prefix.
    """
    pairs = [pair for paradigm in paradigms for pair in paradigm.pairs]
    good, bad = ([encode(pair[side]) for pair in pairs] for side in (0, 1))
    common = [max(min(_common(a, b), len(a) - 1, len(b) - 1), 0) for a, b in zip(good, bad)]
    number = np.arange(len(pairs))
    return Sentences([*good, *bad], np.asarray([*common, *common], np.int64), np.concatenate([number, number]))


def score_pairs(
    scorer: Callable[[Mode | Fused, Sentences, str], Scores],
    mode: Mode | Fused,
    paradigms: Sequence[Paradigm],
    sentences: Sentences,
    name: str = "",
    resamples: int = 1000,
    seed: int = 0,
) -> Accuracies:
    """Shares of pairs whose acceptable sentence scores higher; `sentences` are those of `pair_sentences`."""
    scores = scorer(mode, sentences, name)
    half = len(scores.total) // 2
    # Equal tokens are a tie, whatever the order of additions in a batch does to the last bit.
    same = np.asarray([list(a) == list(b) for a, b in zip(sentences.tokens[:half], sentences.tokens[half:])], bool)
    difference = np.where(same, 0.0, scores.total[:half] - scores.total[half:])
    right = np.where(difference == 0, TIE, (difference > 0).astype(np.float64))
    cuts = np.cumsum([len(paradigm.pairs) for paradigm in paradigms])[:-1]
    by_paradigm = {paradigm.name: part for paradigm, part in zip(paradigms, np.split(right, cuts))}
    fields = {paradigm.name: paradigm.field for paradigm in paradigms}
    return accuracies(by_paradigm, fields, resamples, seed, _unsure(scores, difference))


def accuracies(
    right: Mapping[str, Float64[np.ndarray, " N"]],
    fields: Mapping[str, str],
    resamples: int = 1000,
    seed: int = 0,
    unsure: float | None = None,
) -> Accuracies:
    """Sums up what each pair of each paradigm is worth (1, 1/2 or 0), with 95% percentile bootstrap intervals.

    Pairs are resampled within their paradigm; a paradigm's resamples depend on the seed and its name alone.
    """
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
        ties=int(sum(np.sum(part == TIE) for part in right.values())),
        unsure=unsure,
    )


def resampled_means(right: Float64[np.ndarray, " N"], resamples: int, seed: Sequence[int]) -> Float64[np.ndarray, " R"]:
    """The means of `resamples` samples of N pairs, drawn with replacement.

    A pair is worth 0, 1/2 or 1, so what a resample holds of each is multinomial, and no pair need be drawn.
    """
    worth = np.asarray([0.0, TIE, 1.0])
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


def _folder_records(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not folder.is_dir():
        siblings = [str(folder.parent / name) for name in os.listdir(folder.parent)] if folder.parent.is_dir() else []
        raise UserError(f"There is no folder of minimal pairs {str(folder)!r}.{nearest(str(folder), siblings)}")
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise UserError(f"The folder {str(folder)!r} holds no .jsonl file.")
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as UTF-8 text ({error}).") from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield path.stem, _record(line, f"{path}, line {number}")


def _record(line: str, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}).") from None
    if not isinstance(record, dict):
        raise UserError(f"{where} is no JSON object with {' and '.join(SENTENCES)}.")
    for key in SENTENCES:
        if not isinstance(record.get(key), str):
            wrong = "is no text" if key in record else "is missing"
            raise UserError(f"{where}: {key!r} {wrong}.{'' if key in record else nearest(key, record)}")
    return record


def _tfds_records(name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The records of every config of a builder, which must lie prepared on the disk: nothing is downloaded."""
    from mixlm.data.quiet_tensorflow import import_tensorflow

    import_tensorflow()
    import tensorflow_datasets as tfds

    try:
        configs = list(tfds.builder_cls(name).builder_configs) or [None]
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"TFDS has no builder {name!r}.{nearest(name, tfds.list_builders())}") from None
    for config in configs:
        builder = tfds.builder(name if config is None else f"{name}/{config}")
        if not (builder.data_path / "dataset_info.json").exists():
            raise UserError(
                f"TFDS has not prepared {builder.info.full_name} in {builder.data_dir_root}: run `tfds build {name}` "
                f"where there is a network, or name a folder of JSONL files with --gin.MINIMAL_PAIRS=FOLDER."
            )
        for split in sorted(builder.info.splits):
            for example in tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)):
                yield (
                    config or name,
                    {key: value.decode() if isinstance(value, bytes) else value for key, value in example.items()},
                )
