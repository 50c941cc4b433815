"""Scores by item: a line for each sentence with what every mode gives it and, where asked, each of its tokens."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from mixlm.errors import UserError
from mixlm.evaluation.base import Mode, TokenMode
from mixlm.evaluation.conventions import scores_of
from mixlm.evaluation.likelihood import Fused
from mixlm.evaluation.run import Prepared
from mixlm.evaluation.sentences import Sentences
from mixlm.evaluation.tables import strict, write

ENDINGS = (".jsonl", ".parquet")
SIDES = ("good", "bad")


def check_file(path: Path, modes: Mapping[str, Mode | Fused] | None = None) -> None:
    """Raises UserError, before anything is scored, for a file that cannot be written as asked.

    With `modes` each of them has to score single tokens.
    """
    if path.suffix not in ENDINGS:
        raise UserError(f"--scores is a file that ends in {' or '.join(ENDINGS)}, not {str(path)!r}.")
    if not path.parent.is_dir():
        raise UserError(f"--scores={path} lies in no folder that there is: make {path.parent} first.")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise UserError(
                "Parquet is written by pyarrow: pip install 'mixlm[report]', or give a .jsonl file."
            ) from None
    for name, mode in (modes or {}).items():
        for part in mode.parts if isinstance(mode, Fused) else (mode,):
            if not isinstance(part, TokenMode):
                raise UserError(
                    f"The mode {name} has no predict(), so it scores no single tokens: leave it out of MODES."
                )


def items(prepared: Prepared, tokens: bool) -> Iterator[dict[str, Any]]:
    """A record for each sentence of the text, and for both of each pair, in the order in which they were read.

    `set` is "text" or "pairs"; scores are in nats, under the convention of pairs. Each of `tokens` has its text, the
    offset at which it begins in the sentence's UTF-8, and its log-probability in every mode, null where it has none.
    """
    yield from _text_items(prepared, tokens)
    if prepared.pairs is not None:
        yield from pair_items(prepared, prepared.pairs, tokens)


def _text_items(prepared: Prepared, tokens: bool) -> Iterator[dict[str, Any]]:
    text, vocabulary = prepared.text, prepared.vocabulary
    found = _scores(prepared, prepared.modes, text.sentences, tokens, "sum")
    for number, given in enumerate(text.sentences.tokens):
        sizes = None if text.sizes is None else text.sizes[number]
        pieces = [piece.replace("\u2581", " ") for piece in vocabulary.pieces(given)]
        head = {"set": "text", "row": int(text.rows[number]), "text": vocabulary.decode(given)}
        yield head | _record(found, number, pieces, _offsets(sizes), len(given))


def pair_items(prepared: Prepared, sentences: Sentences, tokens: bool) -> Iterator[dict[str, Any]]:
    """A record for both sentences of each pair, as in `items`."""
    normalisation = prepared.scoring.convention.normalisation
    found = _scores(prepared, prepared.pair_modes, sentences, tokens, normalisation)
    pairs = [(each.name, number, pair) for each in prepared.paradigms for number, pair in enumerate(each.pairs)]
    for place, (paradigm, number, pair) in enumerate(pairs):
        for side, name in enumerate(SIDES):
            content = pair[side].encode()
            sizes = prepared.vocabulary.encode_with_bytes(pair[side])[1]
            offsets = _offsets(sizes)
            texts = [content[start : start + size].decode(errors="replace") for start, size in zip(offsets, sizes)]
            head = {"set": "pairs", "paradigm": paradigm, "number": number, "side": name, "text": pair[side]}
            yield head | _record(found, place + side * len(pairs), texts, offsets, len(sizes))


def _scores(
    prepared: Prepared, modes: Mapping[str, Mode | Fused], sentences: Sentences, tokens: bool, normalisation: str
) -> dict[str, tuple[Any, Any]]:
    """By mode, each sentence's score and, where asked, its tokens'. A text has no score in a sum of modes."""
    scorer, found = prepared.scorer, {}
    for name, mode in modes.items():
        total = scores_of(scorer, mode, sentences, name, normalisation).total
        found[name] = (total, scorer.tokens(mode, sentences, name).log_p if tokens else None)
    return found


def _record(
    found: Mapping[str, tuple[Any, Any]], number: int, texts: Sequence[str], offsets: Sequence[int | None], count: int
) -> dict[str, Any]:
    record: dict[str, Any] = {"scores": {name: float(total[number]) for name, (total, _) in found.items()}}
    by_mode = {name: each[number].tolist() for name, (_, each) in found.items() if each is not None}
    if not by_mode:
        return record
    places = offsets or [None] * count
    rows = zip(texts, places, *by_mode.values())
    return record | {
        "tokens": [{"text": text, "offset": offset, "scores": dict(zip(by_mode, row))} for text, offset, *row in rows]
    }


def _offsets(sizes: Sequence[int] | None) -> list[int]:
    """The offset at which each token begins, [] where it is not known."""
    return [] if sizes is None else list(accumulate(map(int, sizes), initial=0))[:-1]


def write_items(path: Path, records: Sequence[Mapping[str, Any]]) -> str:
    """Writes the records, as JSON lines or as Parquet by the file's ending; returns the line that says so."""
    plain = [strict(record) for record in records]
    if path.suffix == ".jsonl":
        write(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in plain))
    else:
        import pyarrow
        from pyarrow import parquet

        content = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_pylist(_same_fields(plain)), content)
        write(path, content.getvalue().to_pybytes())
    return f"Scores of {len(records):,} sentences are in {path}."


def _same_fields(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every record with all columns, as the first one names them in a table."""
    names = dict.fromkeys(name for record in records for name in record)
    return [{name: record.get(name) for name in names} for record in records]
