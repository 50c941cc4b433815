"""The sections of a run's page: what was run, what it measured, what it spent, and what went wrong."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mixlm.analysis.document import Document, Figures, Folded, Heading, Text
from mixlm.analysis.run_page.record import Record
from mixlm.reports.journal import FINISHED
from mixlm.reports.metrics import VALIDATION
from mixlm.reports.panels import YARDSTICKS
from mixlm.reports.table import cell
from mixlm.reports.units import count

SPENT = "spent/"
NO_JOURNAL = (
    "This run keeps no journal, as a version before 0.8.0 began it: its devices, its restarts and its examples on the "
    "way are not known."
)


def state(record: Record) -> str:
    """A sentence on how far the run is."""
    if not record.metrics:
        return "No step is logged yet."
    step = record.last["step"]
    ended = record.starts[-1]["ended"] if record.starts else None
    if record.picture is not None or ended == FINISHED:
        return f"Finished after {step:,} steps."
    return f"At step {step:,}, and not finished{f': {ended}' if ended else ''}."


def ran(document: Document, record: Record) -> None:
    """What was run and how: the summary that the run printed, the code, the devices and the data."""
    starts, identity = record.starts, record.identity
    document.add(Heading("What was run"))
    rows: list[tuple[str, str]] = []
    if starts:
        first, last = starts[0], starts[-1]
        rows += [(str(name), str(text)) for name, text in last.get("summary", ())]
        code = f"mixlm {last.get('version', '')}"
        code += f", commit {last['commit']}" if last.get("commit") else ", an installed package"
        rows += [("code", f"{code}, jax {last.get('jax', '')}")]
        rows += [("began", _when(first["at"])), ("processes", str(last.get("processes", "1")))]
    else:
        document.add(Text(NO_JOURNAL))
        rows += [("recipe", f"{record.name}, seed {identity.get('seed', '')}")]
        rows += [(name, identity[name]) for name in ("dataset", "batch_size", "lengths") if name in identity]
    rows += [
        (f"fingerprint of {name}", f"`{identity[name]}`")
        for name in identity
        if name in ("data", "vocabulary") or name.startswith("data/")
    ]
    if "epoch" in record.last:
        rows.append(("repeats", f"{cell(float(record.last['epoch']))} epochs of the unique tokens, by the last line"))
    document.add(Figures(("what", "which"), rows, "As the run said it when it last began, with SHA-256 of its data."))
    if record.config.strip():
        document.add(Folded("The whole configuration (config.gin)", record.config.strip()))
    document.add(Folded("The identity of the run (recipe.json)", json.dumps(identity, indent=1, ensure_ascii=False)))


def measured(document: Document, record: Record) -> None:
    """The last validation beside its yardsticks."""
    found = {name: value for name, value in record.last.items() if name.startswith(VALIDATION)}
    if not found:
        return
    kinds = [kind for kind in YARDSTICKS if any(name.endswith(f"/{kind}") for name in record.last)]
    rows = []
    for name, value in found.items():
        term = name.removeprefix(VALIDATION)
        beside = [record.last.get(f"yardstick/{term}/{kind}") for kind in kinds]
        rows.append((f"`{term}`", cell(_number(value)), *map(cell, map(_number, beside))))
    words = [YARDSTICKS[kind][1] for kind in kinds]
    document.add(
        Heading("Validation", 3),
        Figures(("term", "last", *words), rows, "In nats, beside what the same targets cost without context."),
    )


def spent(document: Document, record: Record) -> None:
    """The accounts: tokens by stage and term, FLOPs by stage and network."""
    found = {name.removeprefix(SPENT): value for name, value in record.last.items() if name.startswith(SPENT)}
    if not found:
        return
    document.add(Heading("What was spent"))
    read, flops = record.last.get("tokens"), record.last.get("flops")
    if isinstance(read, int | float) and isinstance(flops, int | float):
        document.add(Text(f"{count(read)} tokens were read, with {count(flops)}FLOP in matrix products."))
    stages = list(dict.fromkeys(name.split("/")[0] for name in found))
    document.add(
        Figures(
            ("stage", "steps", "term", "supervised tokens", "sum of loss weights"),
            [row for stage in stages for row in _tokens(found, stage)],
            "A token counts where a loss judges it, each time that it is seen.",
        ),
        Figures(
            ("stage", "network", "FLOPs", "share of the stage"),
            [row for stage in stages for row in _flops(found, stage)],
            "Matrix products, forward and backward; NAME_head is the product with the vocabulary.",
        ),
    )


def _tokens(found: Mapping[str, Any], stage: str) -> list[tuple[str, ...]]:
    terms = [name for name in found if name.startswith(f"{stage}/") and name.endswith("/tokens")]
    rows: list[tuple[str, ...]] = []
    for name in terms:
        term = name.removeprefix(f"{stage}/").removesuffix("/tokens")
        mass = found.get(f"{stage}/{term}/mass")
        rows.append((f"`{stage}`", cell(found.get(f"{stage}/steps")), f"`{term}`", cell(found[name]), cell(mass)))
    return rows


def _flops(found: Mapping[str, Any], stage: str) -> list[tuple[str, ...]]:
    prefix, total = f"{stage}/flops/", found.get(f"{stage}/flops")
    parts = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    ordered = sorted(parts.items(), key=lambda pair: -pair[1])
    return [(f"`{stage}`", name, count(value), f"{value / total:.1%}" if total else "-") for name, value in ordered]


def wrong(document: Document, record: Record) -> None:
    """What went wrong: restarts, checkpoints that were not whole, damaged lines, figures that are not finite."""
    document.add(Heading("What went wrong"))
    starts, said = record.starts, [sentence for start in record.starts for sentence in start.get("said", ())]
    if not starts:
        document.add(Text(NO_JOURNAL))
    if record.torn:
        steps = ", ".join(f"{step:,}" for step in record.torn)
        said.append(f"Checkpoints that were not whole and are set aside: step {steps}.")
    if record.damaged:
        said.append(f"Lines of metrics.jsonl that were damaged and are set aside: {record.damaged:,}.")
    bad = {name: line["step"] for line in record.metrics for name, value in line.items() if _not_finite(value)}
    said += [f"`{name}` was not finite, last at step {step:,}." for name, step in bad.items()]
    document.add(*map(Text, said))
    if len(starts) > 1 or any(start["ended"] is None for start in starts[:-1]):
        document.add(Figures(("start", "from step", "code", "devices", "end"), _rows(starts), "Each start of the run."))
    elif starts and not said:
        document.add(Text("Nothing: one start, no checkpoint passed over, no line lost, and every figure finite."))


def _rows(starts: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for number, start in enumerate(starts):
        lost = "none was noted" if number == len(starts) - 1 else "without a word: killed, or its machine was lost"
        code = " ".join(filter(None, (str(start.get("version", "")), str(start.get("commit", "")))))
        rows.append(
            (_when(start["at"]), f"{start['step']:,}", code, str(start.get("device", "")), start["ended"] or lost)
        )
    return rows


def _when(text: str) -> str:
    return str(text).replace("T", " ").replace("+00:00", " UTC")


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int | float) else value


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and (value != value or value in (float("inf"), float("-inf")))
