"""The suites of BabyLM's pipeline that ask for the surprisal of words: reading, and the age of acquisition."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlm.errors import UserError
from mixlm.files import read_json, read_text

READING = Path("reading", "reading_data.csv")
ACQUISITION = (Path("aoa", "cdi_childes.json"), Path("cdi_childes", "cdi_childes.json"))
COLUMNS = ("item", "word", "prev_item", "prev_word")
MISSING = ("", "nan", "NaN", "NA", "None", "null")  # what the pipeline's reader takes for no value


@dataclass(frozen=True)
class Word:
    """A word after its context, and where it was read."""

    context: str
    word: str
    where: str


def reading_words(data: Path) -> list[tuple[Word, Word | None]]:
    """Each row's word, and the one before it where the row has one; a context that is missing is the word None."""
    path = data / READING
    rows = list(csv.DictReader(io.StringIO(read_text(path))))
    if not rows:
        raise UserError(f"{path} holds no row.")
    for name in COLUMNS:
        if name not in rows[0]:
            raise UserError(f"{path} has no column {name!r}, only {', '.join(map(str, rows[0]))}.")
    found = []
    for number, row in enumerate(rows, 2):
        where = f"{path}, line {number}"
        item, word, before, prev = (row[name] or "" for name in COLUMNS)
        previous = None if before in MISSING else Word(before, prev, where)
        found.append((Word("None" if item in MISSING else item, word, where), previous))
    return found


@dataclass(frozen=True)
class Target:
    """A word whose acquisition is timed, in one of its contexts."""

    word: Word
    context_id: int
    context: str


def acquisition_words(path: Path) -> list[Target]:
    """The words of more than one letter in all of their contexts."""
    found = []
    for word, contexts in read_json(path, dict).items():
        if len(word) < 2:
            continue
        for number, each in enumerate(contexts if isinstance(contexts, Sequence) else ()):
            if not isinstance(each, Mapping) or not isinstance(each.get("context"), str):
                raise UserError(f"{path}: {word!r} number {number} has no 'context', which is a text.")
            where = f"{path}, {word!r} number {number}"
            found.append(Target(Word(each["context"].strip() + " ", word.strip(), where), number, each["context"]))
    if not found:
        raise UserError(f"{path} holds no word.")
    return found


def after(word: Word) -> tuple[str, str]:
    """The context and the word as they are read, with a blank between them."""
    context = word.context.rstrip()
    return context, word.word if not context else f" {word.word.strip()}"


def as_reading(surprisals: Sequence[float], before: Sequence[float]) -> dict[str, Any]:
    """The predictions of reading; a word without one before it has NaN there, as the pipeline writes it."""
    pairs = zip(surprisals, before)
    return {
        "reading": {"predictions": [{"id": n, "pred": pred, "prev_pred": prev} for n, (pred, prev) in enumerate(pairs)]}
    }
