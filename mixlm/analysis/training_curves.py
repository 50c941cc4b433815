"""Figures along training: validation beside training loss against epochs, and a metric against compute."""

from collections.abc import Sequence
from typing import Any

from mixlm.analysis.cells import Cells
from mixlm.analysis.layout import MOST_PANELS, Layout, Panel, averaged, layout
from mixlm.analysis.study import bare
from mixlm.analysis.style import UNITS, Png, colours, figure, plain, png, unit

BUDGETS = ("flops", "tokens", "step")


def has_curves(cells: Cells, metric: str) -> bool:
    """True for a metric that is measured at more than one evaluation point of some cell."""
    if metric not in cells.frame.columns:
        return False
    return any(len(x) > 1 for seeds in cells.curves(metric, "step").values() for x, _ in seeds.values())


def trained_twin(cells: Cells, metric: str) -> str | None:
    """The training loss of a validation metric, where the table has it: of weighted tokens, their cross-entropy."""
    twin = metric.replace("validation/", "train/", 1)
    twins = [name for name in (f"{twin}/cross_entropy", twin) if name != metric and name in cells.frame.columns]
    return twins[0] if twins else None


def overfitting_figure(cells: Cells, metric: str) -> Png:
    """Validation (full lines) and training (dashed) against epochs, a panel for each combination of further axes."""
    metric = bare(metric)
    drawn_metrics = [metric, *([twin] if (twin := trained_twin(cells, metric)) else [])]
    shape = layout(cells.study)
    panels = [panel for panel in shape.panels if _any(cells, panel, metric)][:MOST_PANELS]
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    drawn = figure(1.6 + 4.4 * columns, 0.5 + 3.1 * rows)
    grid = drawn.subplots(rows, columns, squeeze=False)
    for spare in grid.flat[len(panels) :]:
        spare.set_visible(False)
    for axes, panel in zip(grid.flat, panels):
        for name, dash in zip(drawn_metrics, ("solid", (0, (3, 1.4)))):
            _draw(axes, cells, panel, shape, name, "epochs", dash, named=name == metric)
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel("epochs (repeats of the unique tokens)")
        plain(axes)
    drawn.supylabel(unit(metric), fontsize=10, multialignment="center")
    _legend(drawn, grid, shape, len(drawn_metrics) > 1)
    return png(drawn)


def budget_figure(cells: Cells, metric: str) -> Png:
    """A metric against FLOPs, tokens and steps: a column for each, a row for each combination of further axes."""
    metric = bare(metric)
    shape = layout(cells.study)
    budgets = [name for name in BUDGETS if name in cells.frame.columns and cells.frame[name].notna().any()]
    panels = [panel for panel in shape.panels if _any(cells, panel, metric)][:MOST_PANELS]
    drawn = figure(1.6 + 3.4 * len(budgets), 0.5 + 2.7 * len(panels))
    grid = drawn.subplots(len(panels), len(budgets), squeeze=False, sharey="row", sharex="col")
    for row, panel in zip(grid, panels):
        for axes, budget in zip(row, budgets):
            _draw(axes, cells, panel, shape, metric, budget, "solid", named=True)
            _ticks(axes, budget)
            plain(axes)
        row[0].set_title(panel.title, fontsize=10, loc="left")
    drawn.supylabel(unit(metric), fontsize=10, multialignment="center")
    for axes, budget in zip(grid[-1], budgets):
        axes.set_xlabel(UNITS[budget])
    _legend(drawn, grid, shape, False)
    return png(drawn)


def _ticks(axes: Any, budget: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))
    if budget != "step":
        axes.xaxis.set_major_formatter(EngFormatter())


def _any(cells: Cells, panel: Panel, metric: str) -> bool:
    curves = cells.curves(metric, "step")
    return any(curves[place] for place in panel.places)


def _draw(
    axes: Any, cells: Cells, panel: Panel, shape: Layout, metric: str, against: str, dash: Any, named: bool
) -> None:
    known, curves = colours(cells.study), cells.curves(metric, against)
    for place in panel.places:
        if not curves[place]:
            continue
        colour, name = shape.line(place)
        x, mean, low, high = averaged(curves[place])
        style: dict[str, Any] = {"color": known.get(colour, "#333333"), "linestyle": dash}
        marker = {"marker": "o", "markersize": 3} if len(x) < 12 and named else {}
        axes.plot(x, mean, label=name if named else None, linewidth=1.5, **marker, **style)
        if len(curves[place]) > 1:
            axes.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _legend(drawn: Any, grid: Any, shape: Layout, with_training: bool) -> None:
    from matplotlib.lines import Line2D

    handles: dict[str, Any] = {}
    for axes in grid.flat:
        handles |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels()) if name not in handles}
    if with_training:
        handles["validation"] = Line2D([], [], color="#333333", linewidth=1.5)
        handles["training"] = Line2D([], [], color="#333333", linewidth=1.5, linestyle=(0, (3, 1.4)))
    title = None if shape.lines == "arm" else shape.lines
    drawn.legend(handles.values(), handles, title=title, loc="outside right upper", frameon=False, fontsize=9)


def curve_rows(cells: Cells, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The points of the curves of metrics: a row for each place and evaluation point, with mean, interval and n."""
    rows = []
    for metric in metrics:
        for place, seeds in cells.curves(metric, "step").items():
            if not seeds:
                continue
            for step, mean, low, high in zip(*averaged(seeds)):
                row = {"metric": metric, "arm": place.arm, **place.values, "step": int(step)}
                rows.append(row | {"mean": mean, "low": low, "high": high, "n": len(seeds)})
    return rows
