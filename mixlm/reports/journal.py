"""The journal of a run: a line for each start and each end, and the examples of each evaluation, for its page."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mixlm.errors import UserError
from mixlm.files import decode, open_append, open_regular, parse_json, read_lines, replacing
from mixlm.reports.examples import ExampleText, Fill, Piece

JOURNAL, EXAMPLES = "journal.jsonl", "examples.jsonl"
FINISHED = "the run is complete"  # the end of its last start


def note_start(folder: Path, step: int, origin: Mapping[str, str], summary: Any, said: Sequence[str]) -> None:
    """A run begins or resumes after `step` steps: where (`origin`), with what summary, and what was said of it."""
    _append(
        folder / JOURNAL, {"event": "start", "at": _now(), "step": step, **origin, "summary": summary, "said": said}
    )


def note_end(folder: Path, how: str) -> None:
    """A start ended so, in words; one that was killed has no such line."""
    _append(folder / JOURNAL, {"event": "end", "at": _now(), "how": how})


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """The starts and ends of a run in their order; [] for a run of a version before 0.8.0."""
    return [line for line in _lines(folder / JOURNAL) if line.get("event") in ("start", "end")]


def add_examples(folder: Path, step: int, examples: Sequence[ExampleText]) -> None:
    """Keeps the examples after `step`, in the place of those of that step and of later ones."""
    resume_examples(folder, step - 1)
    _append(folder / EXAMPLES, {"step": step, "examples": [_plain(example) for example in examples]})


def resume_examples(folder: Path, done: int) -> None:
    """Drops the examples of steps after `done`, which will be made again, and lines that are damaged."""
    path = folder / EXAMPLES
    if not os.path.lexists(path):
        return
    lines = list(_lines(path, damaged=True))
    kept = [line for line in lines if type(line.get("step")) is int and line["step"] <= done]
    if len(kept) < len(lines):
        with replacing(path) as file:
            file.writelines(_text(line) for line in kept)


def read_examples(folder: Path) -> list[tuple[int, list[ExampleText]]]:
    """(step, examples) of each evaluation, in order of the steps; lines that are damaged are left out."""
    found = []
    for line in _lines(folder / EXAMPLES):
        try:
            found.append((int(line["step"]), [_example(each) for each in line["examples"]]))
        except (KeyError, TypeError, ValueError):
            continue
    return sorted(found, key=lambda pair: pair[0])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with open_append(path) as file:
        file.write(_text(line))


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, separators=(", ", ": ")) + "\n"


def _lines(path: Path, damaged: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; `damaged` gives {} for each line that holds none."""
    if not os.path.lexists(path):
        return
    with open_regular(path) as file:
        for content in read_lines(file, str(path)):
            try:
                yield parse_json(decode(content, "It"), "It", dict)
            except UserError:
                if damaged:
                    yield {}


def _plain(example: ExampleText) -> dict[str, Any]:
    found: dict[str, Any] = {"objective": example.objective, "number": example.number, "part": example.part}
    for name in ("reads", "says", "model"):
        pieces: tuple[Piece, ...] = getattr(example, name)
        found[name] = [[piece.text, piece.kind, piece.before] for piece in pieces]
    return found | {"fills": [[fill.name, fill.true, fill.model] for fill in example.fills]}


def _example(line: Mapping[str, Any]) -> ExampleText:
    reads, says, model = (
        tuple(Piece(text, kind, before) for text, kind, before in line[name]) for name in ("reads", "says", "model")
    )
    fills = tuple(Fill(name, true, said) for name, true, said in line["fills"])
    return ExampleText(line["objective"], line["number"], reads, says, model, fills, line["part"])
