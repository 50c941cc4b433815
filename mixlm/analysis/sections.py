"""The sections of a report on what was asked and found: the study, the verdicts, its cells, and each metric."""

from collections.abc import Mapping, Sequence
from typing import Any

from mixlm.analysis.axis_curves import arms_figure, axis_figure
from mixlm.analysis.cells import Cells
from mixlm.analysis.claims import Finding
from mixlm.analysis.document import Document, Figures, Heading, Picture, Text
from mixlm.analysis.intervals import BOOTSTRAP_FROM, Interval, interval
from mixlm.analysis.paired import Difference, differences, holm, paired
from mixlm.analysis.study import Place, shown
from mixlm.analysis.words import chance, signed, spread
from mixlm.reports.table import Table

MARK = "†"  # cells of another version of the code


def asked(document: Document, cells: Cells) -> None:
    """The study's question, in a paragraph, and how much of it is there."""
    study, frame = cells.study, cells.frame
    done = len(cells.by_cell)
    axes = [f"`{name}` in {{{', '.join(map(shown, values))}}}" for name, values in study.axes.items()]
    arms = [f"the arms {', '.join(f'`{arm}`' for arm in study.arms)}"] if study.arms else []
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) != 1 else ''}"
    grid = "; ".join([*arms, *axes]) or "one configuration"
    metrics = ", ".join(f"`{name}` ({'lower' if goal == 'min' else 'higher'} is better)" for name, goal in
                        study.metrics.items())  # fmt: skip
    document.add(
        Heading(f"Study `{study.name}`", 1),
        Text(
            f"The study varies {grid}, with {seeds} each"
            + (f", on the recipe `{study.recipe}`" if study.recipe else "")
            + f". {done} of {len(study.cells)} cells are done."
            + (f" It is decided by {metrics}." if metrics else "")
            + (f" Differences are to {selector_text(study.baseline)}." if study.baseline else "")
        ),
    )
    devices = sorted({str(each) for each in frame["device"].dropna()}) if "device" in frame else []
    spent = [float(rows.iloc[-1]["flops"]) for rows in cells.by_cell.values() if "flops" in rows]
    if spent:
        where = f" on {', '.join(devices)}" if devices else ""
        total = sum(sorted(spent))
        document.add(Text(f"Counted cell by cell, those that are done have {total / 1e12:,.4g} TFLOP{where}."))


def selector_text(selector: Mapping[str, Any]) -> str:
    """A selector in backquotes, such as `ALPHA 1`."""
    return ", ".join(f"`{value}`" if name == "arm" else f"`{name} {shown(value)}`" for name, value in selector.items())


def verdicts(document: Document, findings: Sequence[Finding]) -> None:
    """The claims with their verdicts and figures, and below them the rules."""
    document.add(Heading("Verdicts"))
    if not findings:
        document.add(Text("The study makes no claims; its tables and figures follow."))
        return
    rows = [
        {"claim": each.claim, "verdict": each.verdict, "figures": each.figures, "rule": each.rule} for each in findings
    ]
    name = document.keep("claims.csv", Table(rows))
    cells = [[each.claim, f"**{each.verdict}**", each.figures] for each in findings]
    document.add(Figures(("claim", "verdict", "figures"), cells, "Claims, as they were written before the runs.", name))
    document.add(Text("Rules of the verdicts; with cells missing a verdict is undecided."))
    document.add(Text("\n".join(f"- {rule}" for rule in dict.fromkeys(each.rule for each in findings))))


def remarks(document: Document, cells: Cells) -> None:
    """Cells that failed or are missing, and code versions that are mixed."""
    if len(cells.versions) > 1:
        most, *others = cells.versions.items()
        texts = [f"{version or 'no version'} in {_some(names)}" for version, names in others]
        document.add(
            Text(
                f"**Cells of different code versions are mixed.** Most are of {most[0] or 'no version'} "
                f"({len(most[1])} cells); {'; '.join(texts)}. What holds such a cell is marked {MARK}."
            )
        )
    if cells.failed:
        rows = [[f"`{name}`", status, sentence or "-"] for name, status, sentence in cells.failed]
        columns = ("cell", "status", "sentence")
        table = Table([dict(zip(columns, each)) for each in cells.failed], columns)
        file = document.keep("not_done.csv", table)
        document.add(Heading("Cells that are not done"), Figures(columns, rows[:40], _left(len(rows), 40), file))


def _left(many: int, most: int) -> str:
    return "Cells that are in no table below." + (f" The first {most} of {many}." if many > most else "")


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in names[:most]) + rest


def metric(document: Document, cells: Cells, name: str) -> None:
    """A deciding metric: its means with intervals, its figures by axis, and differences to the baseline."""
    values = cells.values(name)
    document.add(Heading(f"`{name}`"))
    if not any(values.values()):
        document.add(Text("No cell that is done has a value of it."))
        return
    _means(document, cells, name, values)
    slug = slug_of(name)
    numeric = [axis for axis, known in cells.study.axes.items() if len(known) > 1]
    for axis in numeric:
        picture = axis_figure(cells, name, axis)
        caption = f"{name} against {axis}: mean over seeds with its 95% interval."
        document.add(Picture(f"{slug}_by_{axis.lower()}.png", picture, caption, f"{slug}_means.csv"))
    if not numeric or cells.study.arms:
        picture = arms_figure(cells, name)
        caption = f"{name}: seeds (faint), mean and its 95% interval."
        document.add(Picture(f"{slug}_by_arm.png", picture, caption, f"{slug}_means.csv"))
    if cells.study.baseline:
        _differences(document, cells, name, values)


def slug_of(name: str) -> str:
    """A metric's name as files have it."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _means(document: Document, cells: Cells, name: str, values: Mapping[Place, Mapping[int, float]]) -> None:
    found = {place: interval(list(seeds.values())) for place, seeds in values.items()}
    rows = [
        {
            "arm": place.arm,
            **place.values,
            **_columns(each),
            "cells": " ".join(_cells_with(cells, place, values[place])),
        }
        for place, each in found.items()
    ]
    file = document.keep(f"{slug_of(name)}_means.csv", Table(rows))
    goal = cells.study.goal(name)
    kinds = sorted({each.how for each in found.values() if each.known})
    counts = sorted({each.n for each in found.values()})
    caption = (
        f"Mean over seeds with its 95% interval ({_how(kinds)}), n = {' or '.join(map(str, counts))}; the best of each "
        "row is in bold. Each row of the file names its cells in `cells.csv`."
    )
    document.add(_means_table(cells, found, goal, caption, file))


def _means_table(cells: Cells, found: Mapping[Place, Interval], goal: str, caption: str, file: str) -> Figures:
    """A grid of two axes, or else a row for each place."""
    study = cells.study
    varied = [axis for axis, known in study.axes.items() if len(known) > 1]
    marks = {place: MARK if set(cells.names(place)) & cells.strangers else "" for place in found}
    pick = min if goal == "min" else max
    if len(varied) != 2 or len(study.arms) > 1:
        known = [each.mean for each in found.values() if each.n]
        best = pick(known) if known else None
        rows = [
            [place.label + marks[place], _bold(spread(each), each.mean == best), str(each.n)]
            for place, each in found.items()
        ]
        return Figures(("cell", "mean [95% interval]", "n"), rows, caption.replace("of each row ", ""), file)
    across, down = _turned(study.axes, varied)
    table = {(place.values[down], place.values[across]): place for place in found}
    rows = []
    for value in study.axes[down]:
        line = [table.get((value, other)) for other in study.axes[across]]
        means = [found[place].mean for place in line if place is not None and found[place].n]
        best = pick(means) if means else None
        texts = [
            "-" if place is None or not found[place].n
            else _bold(spread(found[place]) + marks[place], found[place].mean == best)
            for place in line
        ]  # fmt: skip
        rows.append([shown(value), *texts])
    return Figures((f"{down} \\ {across}", *map(shown, study.axes[across])), rows, caption, file)


def _turned(axes: Mapping[str, Sequence[Any]], varied: Sequence[str]) -> tuple[str, str]:
    """(the axis across, the axis down): the longer one goes across, so that its best value is in a row."""
    first, second = varied
    return (first, second) if len(axes[first]) >= len(axes[second]) else (second, first)


def _bold(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best else text


def _columns(found: Interval) -> dict[str, Any]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n, "interval": found.how}


def _cells_with(cells: Cells, place: Place, seeds: Mapping[int, float]) -> list[str]:
    return [each.cell for each in cells.study.cells if each.place == place and each.seed in seeds]


def _how(kinds: Sequence[str]) -> str:
    words = {"t": "Student's t", "bootstrap": f"percentile bootstrap, as {BOOTSTRAP_FROM} seeds or more allow"}
    return " and ".join(words[kind] for kind in kinds) or "none with one seed"


def _differences(document: Document, cells: Cells, name: str, values: Mapping[Place, Mapping[int, float]]) -> None:
    """Every place less its counterpart at the baseline, paired by seed, one family of tests."""
    study, goal = cells.study, cells.study.goal(name)
    baseline = study.selector("The baseline", study.baseline)
    both = [(place, place.moved(baseline)) for place in values if not place.matches(baseline)]
    both = [(place, base) for place, base in both if base in values]
    tests = holm([paired(differences(values[place], values[base])) for place, base in both])
    if not tests:
        document.add(Text(f"No place has a counterpart at the baseline {selector_text(baseline)}."))
        return
    rows = [
        {"arm": place.arm, **place.values, **_columns(test.interval), "p": test.p, "p_holm": test.adjusted,
         "verdict": test.verdict(goal), "cells": " ".join(cells.names(place)),
         "baseline_cells": " ".join(cells.names(base))}
        for (place, base), test in zip(both, tests)
    ]  # fmt: skip
    file = document.keep(f"{slug_of(name)}_differences.csv", Table(rows))
    lines = [_difference_line(place, test, goal) for (place, _), test in zip(both, tests)]
    columns = ("cell", "difference [95% interval]", "p", "p (Holm)", "n", "verdict")
    caption = (
        f"{name} less that of {selector_text(baseline)} at the same other axes, paired by seed; Student's t, and "
        f"Holm's correction over these {sum(test.p == test.p for test in tests)} tests."
    )
    document.add(Heading("Differences to the baseline", 3), Figures(columns, lines, caption, file))


def _difference_line(place: Place, test: Difference, goal: str) -> list[str]:
    inside = test.interval
    text = signed(inside.mean)
    if inside.known:
        text += f" [{signed(inside.low)}, {signed(inside.high)}]"
    return [place.label, text, chance(test.p), chance(test.adjusted), str(inside.n), test.verdict(goal)]
