"""The sections of a report on the optimum, on training curves, and on what it takes to reach a loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mixlm.analysis.cells import Cells
from mixlm.analysis.claims import lacking
from mixlm.analysis.document import Document, Figures, Heading, Picture, Text
from mixlm.analysis.optimum import Optimum, has_optimum, optima
from mixlm.analysis.reaching import reached
from mixlm.analysis.sections import MARK, selector_text, slug_of
from mixlm.analysis.study import Place, bare, shown
from mixlm.analysis.surfaces import optimum_figure
from mixlm.analysis.training_curves import (
    budget_figure,
    curve_rows,
    has_curves,
    overfitting_figure,
    trained_twin,
)
from mixlm.analysis.words import amount, number, place
from mixlm.reports.table import Table


def optimum_axes(cells: Cells) -> list[str]:
    """The axes whose optimum is asked for: those of claims, else of the baseline, else every axis that has one."""
    study = cells.study
    claimed = [str(claim.get("axis")) for claim in study.claims if claim.get("kind") == "optimum_moves"]
    named = [axis for axis in study.axes if axis in claimed] or [axis for axis in study.axes if axis in study.baseline]
    return [axis for axis in named or study.axes if has_optimum(cells, axis)]


def optimum(document: Document, cells: Cells, metric: str, partial: bool) -> None:
    """The best place along each axis that has an optimum, or why there is none."""
    axes = optimum_axes(cells)
    if not axes:
        return
    missing = cells.incomplete(metric)
    document.add(Heading(f"Best {' and '.join(axes)}", 3))
    if missing and not partial:
        document.add(
            Text(
                f"No optimum: the grid is incomplete, with {len(missing)} of {len(cells.study.cells)} cells missing "
                f"({lacking(missing)}). `--partial` finds it from the others."
            )
        )
        return
    if missing:
        document.add(Text(f"**From an incomplete grid**, with {len(missing)} cells missing: {lacking(missing)}."))
    for axis in axes:
        found = optima(cells, metric, axis)
        for each in found:
            _one_optimum(document, cells, each)
        if not found:
            document.add(Text(f"No arm has four values of {axis} with a value of the metric."))


def _one_optimum(document: Document, cells: Cells, found: Optimum) -> None:
    stem = "_".join(
        [slug_of(found.metric), "best", found.axis.lower(), *([slug_of(found.fixed.arm)] if found.fixed.arm else [])]
        + [slug_of(f"{name}_{value}") for name, value in found.fixed.axes]
    )
    others = [dict(zip(found.along, other)) for other in found.others]
    rows = [
        {**other, "median": middle, "low": low, "high": high, "draws": len(found.bests), "n": len(found.values)}
        for other, (middle, low, high) in zip(others, found.spans)
    ]
    file = document.keep(f"{stem}.csv", Table(rows))
    data = document.keep(f"{stem}_density.csv", Table(_density_rows(found, others)))
    error, held_out = found.left_out
    lengths = ", ".join(
        f"{number(length)} along {name}"
        for name, length in zip((found.axis, *found.along), found.posterior.length_scales)
    )
    lines = [
        [*map(shown, other), f"{place(middle)} [{place(low)}, {place(high)}]"]
        for other, (middle, low, high) in zip(found.others, found.spans)
    ]
    arm = f" ({found.fixed.label})" if found.fixed.arm or found.fixed.axes else ""
    caption = (
        f"The best {found.axis} by {found.metric}{arm}: median and 95% interval of {len(found.bests):,} surfaces drawn "
        f"from a Gaussian process over {len(found.values)} runs. R2 {found.r2:.3f}; each grid point predicted from the "
        f"others: error {number(error)}, R2 {held_out:.3f}; noise {number(found.posterior.noise)}; length scales "
        f"{lengths}, on the axes' scales."
    )
    document.add(Figures((*found.along, f"best {found.axis} [95% interval]"), lines, caption, file))
    shape = "Surface with its ridge" if len(found.along) == 1 else "Surface"
    document.add(
        Picture(
            f"{stem}.png",
            optimum_figure(cells.study, found),
            f"{shape}, and the density of the best {found.axis}{arm}.",
            data,
        )
    )


def _density_rows(found: Optimum, others: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    values = found.scales[found.axis].backward(found.grid)
    means = found.posterior.predict(found.places(found.others))[0].reshape(len(others), -1)
    return [
        {**other, found.axis: float(value), "density": float(share), "surface": float(mean)}
        for other, shares, surface in zip(others, found.densities, means)
        for value, share, mean in zip(values, shares, surface)
    ]


def training(document: Document, cells: Cells, metrics: Sequence[str]) -> None:
    """Overfitting curves and curves against compute of every metric that is measured along training."""
    names = list(dict.fromkeys(bare(name) for name in metrics if has_curves(cells, bare(name))))
    if not names:
        return
    document.add(Heading("Along training"))
    twins = [twin for name in names if (twin := trained_twin(cells, name))]
    data = document.keep("curves.csv", Table(curve_rows(cells, [*names, *twins])))
    for name in names:
        slug = slug_of(name)
        if "epochs" in cells.frame.columns and cells.frame["epochs"].notna().any():
            twin = trained_twin(cells, name)
            beside = f" (full) beside {twin} (dashed)" if twin else ""
            document.add(
                Picture(
                    f"{slug}_overfitting.png", overfitting_figure(cells, name), f"{name}{beside} against epochs.", data
                )
            )
        document.add(
            Picture(
                f"{slug}_budgets.png",
                budget_figure(cells, name),
                f"{name} against what was spent: mean over seeds, with its 95% interval as a band.",
                data,
            )
        )


def reaching(document: Document, cells: Cells, metrics: Sequence[str], loss: float | None) -> None:
    """The FLOPs at which each place reaches its baseline's final value, or a given loss."""
    names = list(dict.fromkeys(bare(name) for name in metrics if has_curves(cells, bare(name))))
    if "flops" not in cells.frame.columns or not (cells.study.baseline or loss is not None):
        return
    for name in names:
        targets = _targets(cells, name, loss)
        goal = cells.study.goal(name)
        found = reached(cells, name, "flops", targets, goal)
        if not found:
            continue
        rows = [
            {"arm": each.place.arm, **each.place.values, "target": each.target, "flops": each.spread.mean,
             "low": each.spread.low, "high": each.spread.high, "reached": each.reached, "n": each.n,
             "cells": " ".join(cells.names(each.place))}
            for each in found
        ]  # fmt: skip
        file = document.keep(f"{slug_of(name)}_flops_to_reach.csv", Table(rows))
        lines = []
        for each in found:
            spread = each.spread
            text = "not reached" if not each.reached else f"not reached by {each.n - each.reached}"
            if spread.n:
                text = amount(spread.mean, "FLOP")
                text += f" [{amount(spread.low)}, {amount(spread.high)}]" if spread.known else ""
            lines.append([each.place.label, number(each.target), text, f"{each.reached} of {each.n}"])
        base = f"the final mean of {selector_text(cells.study.baseline)}"
        asked = base if loss is None else "a loss that was asked for"
        caption = (
            f"FLOPs at which {name} first reaches {asked}, interpolated in logarithms between evaluation points: "
            "geometric mean over seeds with its 95% interval, which is given only where every seed reaches it."
        )
        columns = ("cell", "target", "FLOPs [95% interval]", "seeds")
        document.add(
            Heading(f"FLOPs to reach a value of `{name}`", 3),
            Figures(columns, lines, caption, file),
        )


def _targets(cells: Cells, name: str, loss: float | None) -> dict[Place, float]:
    values = cells.values(name)
    if loss is not None:
        return dict.fromkeys(values, loss)
    baseline = cells.study.selector("The baseline", cells.study.baseline)
    found = {}
    for here in values:
        seeds = values.get(here.moved(baseline))
        if seeds:
            found[here] = float(np.mean(sorted(seeds.values())))
    return found


def methods(document: Document, cells: Cells) -> None:
    """The methods behind the figures, and where each can be traced to."""
    from mixlm.analysis.scales import scale_of

    axes = optimum_axes(cells)
    document.add(Heading("Methods"))
    document.add(
        Text(
            "Figures at the end of a run are those of its last row in `cells.csv`; the prefix `best:` is its best "
            "checkpoint. Every table has a CSV beside this page with the names of the cells that each row rests on; "
            "`cells.csv` has their values."
        ),
        Text(
            "Intervals are 95%: Student's t over seeds, and the percentile bootstrap from 20 seeds on. Differences are "
            "paired by seed and tested by Student's t; p (Holm) keeps the chance of any false finding in its table at "
            f"5%. Their intervals are each for itself. {MARK} marks cells of another code version."
        ),
    )
    if axes:
        scales = "; ".join(f"{name} {scale_of(values).text}" for name, values in cells.study.axes.items())
        document.add(
            Text(
                "Optima come from Gaussian-process regression on every run: an anisotropic Matern 3/2 kernel with "
                f"white noise, as in the Dual paper, and constant mean. Scales of the axes (our choice): {scales}. "
                "Surfaces are drawn at hyperparameters from a Metropolis chain, so that their uncertainty is in the "
                "interval. The prior allows kinks; where the true surface is smooth the interval is wider than it "
                "need be."
            )
        )
