"""The files of a run that its page is made of, of a run finished, running, stopped or of an earlier version."""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from mixlm.errors import UserError
from mixlm.files import read_bytes, read_json, read_text
from mixlm.paths import refuse_special
from mixlm.reports.examples import ExampleText
from mixlm.reports.journal import EXAMPLES, JOURNAL, read_examples, read_journal
from mixlm.reports.metrics import read
from mixlm.reports.record import DAMAGED, FILE

IDENTITY, CONFIG, PICTURE, CHECKPOINTS = "recipe.json", "config.gin", "curves.png", "checkpoints"
READ = (IDENTITY, CONFIG, PICTURE, FILE, DAMAGED, JOURNAL, EXAMPLES)
_TORN = re.compile(r"(\d+)\.torn")


@dataclass(frozen=True)
class Record:
    """A run by its folder; what a run of an earlier version did not keep is empty."""

    folder: Path
    identity: dict[str, str]
    metrics: list[dict[str, Any]]
    journal: list[dict[str, Any]]
    examples: list[tuple[int, list[ExampleText]]]
    config: str = ""
    picture: bytes | None = None
    damaged: int = 0  # lines that were set aside
    torn: tuple[int, ...] = ()  # steps of checkpoints that were not whole

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.identity.get("name", "").strip("'") or self.folder.absolute().name

    @property
    def starts(self) -> list[dict[str, Any]]:
        """The starts in their order, each with `ended`, its end in words, None where it left none."""
        found: list[dict[str, Any]] = []
        for line in self.journal:
            if line["event"] == "start":
                found.append({**line, "ended": None})
            elif found:
                found[-1]["ended"] = line.get("how")
        return found

    @cached_property
    def last(self) -> dict[str, Any]:
        """Each figure's last value."""
        return {name: value for line in self.metrics for name, value in line.items()}

    @property
    def switches(self) -> list[tuple[int, str]]:
        """The last logged step before each stage but the first, and the stage's name."""
        return [(a["step"], b["stage"]) for a, b in pairwise(self.metrics) if a["stage"] != b["stage"]]


def read_record(folder: Path) -> Record:
    """Reads a run's folder; UserError where it holds no run, or a link or a pipe at one of the names."""
    if not (folder / IDENTITY).is_file():
        raise UserError(f"There is no run in {folder} (no {IDENTITY}).")
    for name in READ:
        refuse_special(folder / name)
    found: Any = {}
    if os.path.lexists(folder / DAMAGED):
        found["damaged"] = len(read_bytes(folder / DAMAGED).splitlines())
    if os.path.lexists(folder / CONFIG):
        found["config"] = read_text(folder / CONFIG)
    if os.path.lexists(folder / PICTURE):
        found["picture"] = read_bytes(folder / PICTURE)
    checkpoints = folder / CHECKPOINTS
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
    torn = tuple(sorted(int(match[1]) for name in names if (match := _TORN.fullmatch(name))))
    held: dict[str, Any] = read_json(folder / IDENTITY)
    identity = {name: value for name, value in held.items() if isinstance(value, str)}
    return Record(folder, identity, read(folder), read_journal(folder), read_examples(folder), torn=torn, **found)
