"""Results of scoring: a table with a column per mode, JSON and CSV files, and a bar chart."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixlm.errors import UserError
from mixlm.evaluation.minimal_pairs import Accuracies, Interval
from mixlm.evaluation.pair_files import Paradigm
from mixlm.evaluation.perplexity import TextFigures
from mixlm.files import replacing
from mixlm.paths import refuse_link
from mixlm.reports.table import fixed

NONE = "-"
# Okabe and Ito's colours, which colour-blind readers tell apart; then hatched once more.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#555555")

Row = tuple[str, list[str]]


def text_rows(figures: Mapping[str, TextFigures | None]) -> list[Row]:
    """Table rows of the text's figures; '-' where a mode has none."""

    def row(label: str, cell: Any) -> Row:
        return label, [NONE if figure is None else cell(figure) for figure in figures.values()]

    rows = [
        row("kind of figure", lambda f: f.kind),
        row("tokens scored", lambda f: f"{f.tokens:,}"),
        row("rows read", lambda f: NONE if f.read is None else f"{f.read:,}"),
        row("nats per token", lambda f: _number(f.nats_per_token)),
        row("  standard error", lambda f: _number(f.nats_error)),
    ]
    if any(figure is not None and figure.noise_error is not None for figure in figures.values()):
        rows.append(row("  of it by sampling", lambda f: _number(f.noise_error)))
    return [
        *rows,
        row("perplexity", lambda f: _number(f.perplexity, 1)),
        row("bits per byte", lambda f: _number(f.bits_per_byte)),
        row("  standard error", lambda f: _number(f.bits_error)),
        row("% of bytes <unk>", lambda f: _number(None if f.unknown is None else 100 * f.unknown, 2)),
    ]


def pair_rows(found: Mapping[str, Accuracies]) -> list[Row]:
    """Table rows of accuracies in percent, by field and overall."""
    first = next(iter(found.values()))
    rows = [(field, [_percent(each.fields[field].value) for each in found.values()]) for field in first.fields]
    rows += [
        ("overall", [_percent(each.overall.value) for each in found.values()]),
        ("  95% interval", [_span(each.overall) for each in found.values()]),
        ("over all pairs", [_percent(each.over_pairs.value) for each in found.values()]),
        ("ties", [f"{each.ties:,}" for each in found.values()]),
    ]
    if any(each.unsure is not None for each in found.values()):
        cells = [NONE if each.unsure is None else _percent(each.unsure) for each in found.values()]
        rows.append(("unsure by noise", cells))
    return rows


def table(names: Sequence[str], sections: Mapping[str, Sequence[Row]], width: int) -> list[str]:
    """The lines of a table with a column per mode; as many columns stand side by side as `width` characters hold.

    A mode's name is broken at its underscores, so that a column is little wider than its figures.
    """
    rows = [row for section in sections.values() for row in section]
    label = max(len(row[0]) for row in rows)
    heads = [name.split("_") for name in names]
    widths = [max(map(len, [*head, *(row[1][i] for row in rows)])) for i, head in enumerate(heads)]
    lines: list[str] = []
    for part in _parts(widths, width - label):
        high = max(len(heads[i]) for i in part)
        padded = {i: [""] * (high - len(heads[i])) + heads[i] for i in part}
        lines += [""] if lines else []
        lines += [
            _line("", [padded[i][depth] for i in part], label, [widths[i] for i in part]) for depth in range(high)
        ]
        for title, section in sections.items():
            lines += [title]
            lines += [
                _line(name, [cells[i] for i in part], label, [widths[i] for i in part]) for name, cells in section
            ]
    return lines


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `as_json`. Raises UserError where the disk does not take it."""
    write(path, as_json(content))


def as_json(content: Mapping[str, Any]) -> str:
    """Strict JSON: what is not finite becomes null."""
    return json.dumps(strict(content), indent=1) + "\n"


def write_csv(path: Path, paradigms: Sequence[Paradigm], found: Mapping[str, Accuracies]) -> None:
    """A line for each mode and each paradigm, field and overall: accuracy, interval, pairs."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["mode", "level", "name", "field", "term", "pairs", "accuracy", "low", "high"])
    total = sum(len(paradigm.pairs) for paradigm in paradigms)
    for mode, each in found.items():
        for paradigm in paradigms:
            names = (paradigm.name, paradigm.field, paradigm.term, len(paradigm.pairs))
            lines.writerow([mode, "paradigm", *names, *_figures(each.paradigms[paradigm.name])])
        for field, interval in each.fields.items():
            size = sum(len(paradigm.pairs) for paradigm in paradigms if paradigm.field == field)
            lines.writerow([mode, "field", field, field, "", size, *_figures(interval)])
        lines.writerow([mode, "overall", "mean over paradigms", "", "", total, *_figures(each.overall)])
        lines.writerow([mode, "overall", "mean over pairs", "", "", total, *_figures(each.over_pairs)])
    write(path, text.getvalue())


def pairs_content(paradigms: Sequence[Paradigm], found: Mapping[str, Accuracies]) -> dict[str, Any]:
    """The accuracies of all modes as plain values."""
    return {
        "pairs": {paradigm.name: len(paradigm.pairs) for paradigm in paradigms},
        "modes": {
            mode: {
                "overall": asdict(each.overall),
                "over_pairs": asdict(each.over_pairs),
                "fields": {name: asdict(interval) for name, interval in each.fields.items()},
                "paradigms": {name: asdict(interval) for name, interval in each.paradigms.items()},
                "ties": each.ties,
                "unsure": each.unsure,
            }
            for mode, each in found.items()
        },
    }


def text_content(figures: Mapping[str, TextFigures | None]) -> dict[str, Any]:
    """The figures of all modes as plain values, perplexity included."""
    return {
        mode: None if figure is None else asdict(figure) | {"perplexity": figure.perplexity}
        for mode, figure in figures.items()
    }


def draw(found: Mapping[str, Accuracies], path: Path, title: str) -> None:
    """Writes a bar chart of fields and overall, a bar per mode with its interval, and the level of chance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = next(iter(found.values()))
    groups = [*first.fields, "overall"]
    bar = 0.8 / len(found)
    figure = Figure(figsize=(3 + len(groups) * max(1.2, 0.28 * len(found)), 5.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, (mode, each) in enumerate(found.items()):
        intervals = [*each.fields.values(), each.overall]
        values = [100 * interval.value for interval in intervals]
        below = [100 * max(interval.value - interval.low, 0) for interval in intervals]
        above = [100 * max(interval.high - interval.value, 0) for interval in intervals]
        places = [group - 0.4 + bar * (index + 0.5) for group in range(len(groups))]
        axes.bar(
            places, values, bar * 0.92, yerr=[below, above], label=mode.replace("_", " "),
            color=COLOURS[index % len(COLOURS)], hatch="//" if index >= len(COLOURS) else None,
            edgecolor="white", error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#222222"},
        )  # fmt: skip
    axes.axhline(50, color="black", linewidth=1, linestyle=(0, (4, 3)), label="chance")
    axes.set_xticks(range(len(groups)), [_label(group) for group in groups])
    axes.set_ylabel("acceptable sentence preferred (%)")
    axes.set_ylim(0, 100)
    axes.grid(True, axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    axes.set_title(title, fontsize=12)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write(path, picture.getvalue())


def write(path: Path, content: str | bytes) -> None:
    """All of a file or nothing; UserError where the disk does not take it."""
    try:
        refuse_link(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error


def _parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns of each part of the table; at least one."""
    parts: list[list[int]] = [[]]
    for index, width in enumerate(widths):
        if parts[-1] and sum(widths[i] + 2 for i in parts[-1]) + width + 2 > room:
            parts.append([])
        parts[-1].append(index)
    return parts


def _line(label: str, cells: Sequence[str], width: int, widths: Sequence[int]) -> str:
    return (f"{label:<{width}}" + "".join(f"  {cell:>{size}}" for cell, size in zip(cells, widths))).rstrip()


def _number(value: float | None, decimals: int = 4) -> str:
    return NONE if value is None or math.isnan(value) else fixed(value, decimals)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _span(interval: Interval) -> str:
    return f"{_percent(interval.low)}-{_percent(interval.high)}"


def _label(name: str) -> str:
    return name.replace("_", " ").replace("/", "/\n")


def _figures(interval: Interval) -> list[str]:
    return [f"{value:.6f}" for value in (interval.value, interval.low, interval.high)]


def strict(content: Any) -> Any:
    """The content with None in place of numbers that JSON has not."""
    if isinstance(content, Mapping):
        return {key: strict(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [strict(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
