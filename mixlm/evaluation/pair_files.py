"""Minimal pairs in BLiMP's format: a folder of JSONL files, TFDS, or made ones; each pair knows where it stands."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mixlm.data.made.minimal_pairs import PAIRS, records
from mixlm.errors import UserError, nearest
from mixlm.files import decode, open_regular, parse_json, read_lines
from mixlm.paths import local

TFDS, MADE = "tfds:", "made:"
SENTENCES = ("sentence_good", "sentence_bad")
ENDING = ".jsonl"

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Paradigm:
    """Pairs (acceptable, unacceptable) of one kind, and the field and term of linguistics that they belong to.

    `places` says of each pair where it was read, as an error names it.
    """

    name: str
    field: str
    term: str
    pairs: tuple[tuple[str, str], ...]
    places: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)


def read_pairs(place: str, limit: int | None = None) -> tuple[Paradigm, ...]:
    """The paradigms of a folder of JSONL files, of the TFDS builder NAME where `place` is "tfds:NAME", or made ones.

    "made:SEED" are those of the made language (`data.made.minimal_pairs`).

    Each line holds `sentence_good` and `sentence_bad`, and may hold `UID`, `field` and `linguistics_term`, for which
    the file's name stands in. Of each paradigm the first `limit` pairs are taken, None for all. Hidden files are left
    out. Raises UserError for a folder, a line or a builder that cannot be read.
    """
    if place.startswith(TFDS):
        lines = _tfds_records(place.removeprefix(TFDS))
    elif place.startswith(MADE):
        lines = _made_records(place, PAIRS if limit is None else limit)
    else:
        lines = _folder_records(local(place, "MINIMAL_PAIRS"))
    found: dict[str, tuple[str, str, list[tuple[str, str]], list[str]]] = {}
    for name, where, record in lines:
        _check(record, where)
        uid = str(record.get("UID", name))
        # BLiMP spells one of its fields both syntax_semantics and syntax/semantics.
        kind, term = (str(record.get(key, name)).replace("/", "_") for key in ("field", "linguistics_term"))
        _, _, pairs, places = found.setdefault(uid, (kind, term, [], []))
        if limit is None or len(pairs) < limit:
            pairs.append((record["sentence_good"], record["sentence_bad"]))
            places.append(where)
    if not found:
        raise UserError(f"The files in {place} hold no pair of sentences.")
    return tuple(
        Paradigm(uid, kind, term, tuple(pairs), tuple(places)) for uid, (kind, term, pairs, places) in found.items()
    )


def _made_records(place: str, pairs: int) -> Iterator[tuple[str, str, Record]]:
    """The records of the made language's pairs."""
    seed = place.removeprefix(MADE)
    if not re.fullmatch(r"\d{1,9}", seed, re.ASCII):
        raise UserError(f"MINIMAL_PAIRS={place!r} names no seed of made pairs; it is like '{MADE}0'.")
    for number, (name, record) in enumerate(records(int(seed), pairs), 1):
        yield name, f"{place}, pair {number}", record


def _check(record: Record, where: str) -> None:
    """Raises UserError unless a record has two sentences, and only text that can be written again."""
    for key in SENTENCES:
        if not isinstance(record.get(key), str):
            wrong = "is no text" if key in record else "is missing"
            raise UserError(f"{where}: {key!r} {wrong}.{'' if key in record else nearest(key, record)}")
    for key in (*SENTENCES, "UID", "field", "linguistics_term"):
        try:
            str(record.get(key)).encode()
        except UnicodeEncodeError:
            raise UserError(f"{where}: {key!r} holds half of a character, a lone \\u surrogate.") from None


def _folder_records(folder: Path) -> Iterator[tuple[str, str, Record]]:
    """(The file's name, where the record stands, the record) of every line of a folder's JSONL files."""
    for path in _files(folder):
        with open_regular(path) as file:
            for number, line in enumerate(read_lines(file, str(path)), 1):
                where = f"{_printable(str(path))}, line {number}"
                if text := decode(line, where).strip():
                    yield _printable(path.stem), where, parse_json(text, where, dict)


def _files(folder: Path) -> list[Path]:
    """A folder's JSONL files in the order of their names, without hidden ones."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except NotADirectoryError:
        raise UserError(f"{str(folder)!r} is no folder, and MINIMAL_PAIRS is one: name that of the file.") from None
    except FileNotFoundError:
        raise UserError(f"There is no folder of minimal pairs {str(folder)!r}.{_close(folder)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The folder of minimal pairs {str(folder)!r} cannot be read: {reason}.") from None
    files = [folder / name for name in names if name.lower().endswith(ENDING)]
    if not files:
        raise UserError(f"The folder {str(folder)!r} holds no {ENDING} file.")
    return files


def _printable(name: str) -> str:
    """A file's name, with bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _close(folder: Path) -> str:
    try:
        siblings = [str(folder.parent / name) for name in os.listdir(folder.parent)]
    except OSError:
        return ""
    return nearest(str(folder), siblings)


def _tfds_records(name: str) -> Iterator[tuple[str, str, Record]]:
    """The records of every config of a builder, which must lie prepared on the disk: nothing is downloaded."""
    # Before TensorFlow is imported, which takes seconds; a config or a version would not be looked for.
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise UserError(f"MINIMAL_PAIRS={TFDS + name!r} names no builder of TFDS; it is like 'tfds:blimp'.")
    from mixlm.data.quiet_tensorflow import import_tensorflow

    import_tensorflow()
    import tensorflow_datasets as tfds

    try:
        configs = list(tfds.builder_cls(name).builder_configs) or [None]
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"TFDS has no builder {name!r}.{nearest(name, tfds.list_builders())}") from None
    for config in configs:
        full = name if config is None else f"{name}/{config}"
        builder = tfds.builder(full)
        if not (builder.data_path / "dataset_info.json").exists():
            raise UserError(
                f"TFDS has not prepared {builder.info.full_name} in {builder.data_dir_root}: run `tfds build {name}` "
                f"where there is a network, or name a folder of JSONL files with --gin.MINIMAL_PAIRS=FOLDER."
            )
        for split in sorted(builder.info.splits):
            for number, example in enumerate(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)), 1):
                where = f"{TFDS}{full}, {split}, example {number}"
                yield config or name, where, {key: _text(value, where) for key, value in example.items()}


def _text(value: Any, where: str) -> Any:
    return decode(value, where) if isinstance(value, bytes) else value
