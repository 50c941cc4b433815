"""Figures of an optimum: a heat map of the surface with its ridge, and the density of the best place."""

from typing import Any

import numpy as np

from mixlm.analysis.optimum import Optimum
from mixlm.analysis.study import Study, key, shown
from mixlm.analysis.style import Png, colours, figure, named_ticks, plain, png, unit

RIDGE = "#D55E00"


def optimum_figure(study: Study, found: Optimum) -> Png:
    """Left the surface, right the density of the best place along the axis at each value of the other axis."""
    drawn = figure(12.0, 4.6)
    left, right = drawn.subplots(1, 2, width_ratios=(1.25, 1))
    if len(found.along) == 1:
        _heat_map(drawn, left, study, found)
    else:
        _slices(left, study, found)
    _densities(right, study, found)
    return png(drawn)


def _heat_map(drawn: Any, axes: Any, study: Study, found: Optimum) -> None:
    """The posterior mean over both axes; the ridge is the median best place, its bars the 95% interval."""
    (along,) = found.along
    scale, own = found.scales[along], found.scales[found.axis]
    columns = np.array([float(scale.forward(other[0])) for other in found.others])
    margin = 0.08 * (np.ptp(columns) or 1.0)
    wide = np.linspace(columns.min() - margin, columns.max() + margin, 90)
    mean, _ = found.posterior.predict(found.places([(float(scale.backward(u)),) for u in wide]))
    surface = mean.reshape(len(wide), len(found.grid)).T
    # A wide range, as of runs that diverge, would leave one colour for the rest.
    high = np.quantile(surface, 0.9) if found.goal == "min" else surface.max()
    low = surface.min() if found.goal == "min" else np.quantile(surface, 0.1)
    levels = np.linspace(low, high, 13)
    image = axes.contourf(
        wide, found.grid, surface, levels, cmap="cividis", extend="max" if found.goal == "min" else "min"
    )
    drawn.colorbar(image, ax=axes, label=unit(found.metric), pad=0.02, format="%.4g")
    places = np.unique(found.posterior.inputs * found.posterior.span + found.posterior.low, axis=0)
    axes.scatter(
        places[:, 1],
        places[:, 0],
        s=16,
        facecolor="white",
        edgecolor="black",
        linewidth=0.7,
        label="cells",
        clip_on=False,
        zorder=4,
    )
    middle, low_, high_ = own.forward(np.array(found.spans)).T
    bars = np.clip(np.array([middle - low_, high_ - middle]), 0, None)
    style: dict[str, Any] = {"color": RIDGE, "marker": "D", "markersize": 5, "linewidth": 2.0}
    axes.errorbar(columns, middle, bars, capsize=4, elinewidth=1.6, label=f"best {found.axis}, 95% interval", **style)
    named_ticks(axes, "x", sorted({other[0] for other in found.others}), scale)
    named_ticks(axes, "y", study.axes[found.axis], own)
    axes.set_xlabel(along)
    axes.set_ylabel(found.axis)
    axes.tick_params(labelsize=9)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)


def _slices(axes: Any, study: Study, found: Optimum, most: int = 6) -> None:
    """The surface along the axis with two standard deviations, and the runs where there is no other axis."""
    for number, other in enumerate(found.others[:most]):
        mean, deviation = found.posterior.predict(found.places([other]))
        colour = _colour(study, found, number)
        axes.plot(found.grid, mean, color=colour, linewidth=1.8, label=_name(found, other) or "surface")
        axes.fill_between(found.grid, mean - 2 * deviation, mean + 2 * deviation, color=colour, alpha=0.15, linewidth=0)
    if not found.along:
        runs = found.posterior.inputs[:, 0] * found.posterior.span[0] + found.posterior.low[0]
        axes.scatter(runs, found.values, s=16, color="#333333", alpha=0.6, linewidth=0, label="runs")
    named_ticks(axes, "x", study.axes[found.axis], found.scales[found.axis])
    axes.set_xlabel(found.axis)
    axes.set_ylabel(unit(found.metric))
    axes.legend(frameon=False, fontsize=9)
    plain(axes)


def _densities(axes: Any, study: Study, found: Optimum, most: int = 12) -> None:
    """One row for each value of the other axes: the density of the best place, scaled to the row, and its interval."""
    others = found.others[:most]
    for row, (density, span) in enumerate(zip(found.densities[:most], found.spans)):
        colour, base = _colour(study, found, row), len(others) - 1 - row
        # Ours: a triangle five points wide, since counts at single points are ragged.
        smooth = np.convolve(np.pad(density, 4, mode="constant"), (1, 2, 3, 2, 1), mode="same")[4:-4]
        axes.fill_between(found.grid, base, base + 0.82 * smooth / smooth.max(), color=colour, alpha=0.75, linewidth=0)
        middle, low, high = found.scales[found.axis].forward(np.array(span))
        axes.plot([low, high], [base - 0.06] * 2, color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot([middle], [base - 0.06], "D", color=colour, markersize=5, markeredgecolor="white")
    axes.set_yticks(range(len(others)), [_name(found, other) for other in reversed(others)])
    axes.set_ylim(-0.3, len(others))
    named_ticks(axes, "x", study.axes[found.axis], found.scales[found.axis])
    axes.set_xlabel(f"best {found.axis}: density, median and 95% interval")
    plain(axes)


def _name(found: Optimum, other: tuple[float, ...]) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in zip(found.along, other))


def _colour(study: Study, found: Optimum, row: int) -> Any:
    if not found.along:
        return "#0072B2"
    known, name = colours(study), found.along[0]

    return known.get((name, key(found.others[row][0])), "#333333")
