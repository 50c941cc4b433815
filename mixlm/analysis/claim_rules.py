"""The kinds of claims: optimum_moves, beats, band_gains, cheaper, and crossing of its own module."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixlm.analysis.cells import Cells
from mixlm.analysis.claims import (
    NOT_SHOWN,
    OPPOSITE,
    SHOWN,
    UNDECIDED,
    Claim,
    Finding,
    Rule,
    difference,
    lacking,
    pairs,
    said,
    selected,
    where_of,
    within,
)
from mixlm.analysis.crossing import crossing
from mixlm.analysis.intervals import interval
from mixlm.analysis.optimum import has_optimum, optima
from mixlm.analysis.paired import BETTER, LEVEL, WORSE, holm
from mixlm.analysis.reaching import reach
from mixlm.analysis.study import NotInGrid, shown
from mixlm.analysis.words import change, number, place, signed
from mixlm.errors import UserError
from mixlm.files import is_number

SHARE = 1.0  # Ours: "cheaper" without a share of its own is cheaper at all.


def optimum_moves(cells: Cells, claim: Claim) -> Finding:
    """The change of the best value of `axis` from the lowest value of `along` to the highest."""
    metric, axis, along, direction = (claim[name] for name in ("metric", "axis", "along", "direction"))
    for name in (axis, along):
        cells.study.selector("The claim optimum_moves", {name: cells.study.axes.get(name, [None])[0]})
    if direction not in ("falls", "rises"):
        raise UserError(f"The claim optimum_moves has the direction {direction!r}, and knows 'falls' and 'rises'.")
    text = f"The best {axis} by {metric} {direction} as {along} grows."
    rule = (
        f"The change of the best {axis} from the lowest {along} to the highest, in surfaces drawn from the posterior: "
        f"shown where the whole 95% interval of the change has the claimed sign, opposite where it has the other."
    )
    if not has_optimum(cells, axis):
        raise NotInGrid(f"The claim optimum_moves needs an axis of four numbers or more, and {axis} is none.")
    missing = cells.incomplete(metric)
    if missing:
        return Finding("optimum_moves", text, rule, UNDECIDED, f"{lacking(missing)}.")
    figures, verdicts = [], []
    for optimum in optima(cells, metric, axis):
        if along not in optimum.along:
            continue
        column = optimum.along.index(along)
        ends = [other[column] for other in optimum.others]
        coordinates = optimum.grid[optimum.bests]
        first, last = (coordinates[:, [end == wanted for end in ends]].mean(1) for wanted in (min(ends), max(ends)))
        low, high = np.quantile(last - first, (0.025, 0.975))
        verdicts.append(_sided(low, high, -1 if direction == "falls" else 1))
        spans = [span for span, end in zip(optimum.spans, ends) if end in (min(ends), max(ends))]
        at = ", ".join(
            f"{place(middle)} [{place(below)}, {place(above)}]" for middle, below, above in (spans[0], spans[-1])
        )
        arm = f"{optimum.fixed.label}: " if optimum.fixed.arm or optimum.fixed.axes else ""
        scale = optimum.scales[axis].text
        figures.append(
            f"{arm}best {axis} at {along} {shown(min(ends))} and {shown(max(ends))}: {at}; the change on the scale "
            f"{scale} lies in [{signed(low)}, {signed(high)}]"
        )
    if not figures:
        raise NotInGrid(f"The claim optimum_moves needs several values of {along} beside {axis}, and there are none.")
    return Finding("optimum_moves", text, rule, _together(verdicts), f"{'; '.join(figures)}.")


def beats(cells: Cells, claim: Claim) -> Finding:
    """Paired differences of an arm to one other, or to each of several, at each place where `each` differs."""
    metric, where = claim["metric"], where_of(cells, claim)
    arms, overs = (selected(cells, "beats", claim[name]) for name in ("arm", "over"))
    places = _each(cells, claim, arms, where)
    both = [(arm, over, {**where, **place}, place) for place in places for arm in arms for over in overs]
    found = [difference(cells, metric, arm, over, here) for arm, over, here, _ in both]
    tests = holm([each for each, _ in found])
    verdicts = [each.verdict(cells.study.goal(metric)) for each in tests]
    threshold = _threshold(claim)
    blind = [_is_blind(cells, metric, arm, over, here, threshold) for arm, over, here, _ in both]
    verdicts = [NOT_SHOWN if noise else verdict for noise, verdict in zip(blind, verdicts)]
    text = f"{_names(arms)} is better than {' and than '.join(map(said, overs))} by {metric}{within(where)}."
    rule = (
        "Paired by seed, Student's t, Holm's correction over the comparisons: shown where every difference is better "
        f"with an adjusted p below {LEVEL}, opposite where any is worse so."
    )
    if not math.isnan(threshold):
        rule += f" Where neither side's mean is better than {number(threshold)}, a comparison counts as not shown."
    verdict = NOT_SHOWN
    if not all(complete for _, complete in found):
        verdict = UNDECIDED
    elif WORSE in verdicts:
        verdict = OPPOSITE
    elif set(verdicts) == {BETTER}:
        verdict = SHOWN
    figures = [
        f"{said(arm)} less {said(over)}{within(place)}: {change(each)}"
        + (f", neither side better than {number(threshold)}" if noise else "")
        for (arm, over, _, place), each, noise in zip(both, tests, blind)
    ]
    return Finding("beats", text, rule, verdict, f"{'; '.join(figures)}.")


def band_gains(cells: Cells, claim: Claim) -> Finding:
    """The gain in a band of tokens, or in each of several, beside the spread of seeds and the overall metric."""
    bands = [claim["metric"]] if isinstance(claim["metric"], str) else list(claim["metric"])
    beside, where = claim["beside"], where_of(cells, claim)
    (arm,), (over,) = (selected(cells, "band_gains", claim[name]) for name in ("arm", "over"))
    found = [difference(cells, band, arm, over, where) for band in bands]
    overall, complete = difference(cells, beside, arm, over, where)
    tests, verdicts, figures = holm([each for each, _ in found]), [], []
    for band, test in zip(bands, tests):
        noise = _seed_deviation(cells, band, arm, over, where)
        verdict = test.verdict(cells.study.goal(band))
        is_large = abs(test.interval.mean) > noise
        verdicts.append(verdict if is_large else NOT_SHOWN)
        figures.append(f"{band}: {change(test)}, seeds differ by {number(noise)} (one standard deviation)")
    text = f"{said(arm)} gains over {said(over)} in {' and '.join(bands)}{within(where)} by more than seeds differ."
    rule = (
        f"Paired by seed, Student's t, Holm's correction over the bands: shown where every band is better with an "
        f"adjusted p below {LEVEL} and by more than the standard deviation of {said(over)} over seeds, opposite where "
        f"any is worse so. {beside} is stated beside it and does not decide."
    )
    verdict = NOT_SHOWN
    if not (complete and all(each for _, each in found)):
        verdict = UNDECIDED
    elif WORSE in verdicts:
        verdict = OPPOSITE
    elif set(verdicts) == {BETTER}:
        verdict = SHOWN
    (alone,) = holm([overall])
    return Finding("band_gains", text, rule, verdict, f"{'; '.join(figures)}; {beside}: {change(alone)}.")


def cheaper(cells: Cells, claim: Claim) -> Finding:
    """The share of its budget with which an arm reaches another's final value, seed by seed."""
    metric, budget, where = claim["metric"], claim.get("budget", "flops"), where_of(cells, claim)
    share, goal = float(claim.get("share", SHARE)), cells.study.goal(metric)
    (arm,), (over,) = (selected(cells, "cheaper", claim[name]) for name in ("arm", "over"))
    curves, matched = cells.curves(metric, budget), pairs(cells, arm, over, where)
    ratios, unreached, missing = [], 0, []
    for here, there in matched:
        for cell in cells.study.cells:
            if cell.place != here:
                continue
            mine, theirs = curves[here].get(cell.seed), curves[there].get(cell.seed)
            if mine is None or theirs is None:
                missing.append(cell.cell)
                continue
            target = float(theirs[1][-1])
            reached, base = (reach(x, y, target, goal) for x, y in (mine, theirs))
            if reached is None or base is None or min(reached, base) <= 0:
                unreached += 1
            else:
                ratios.append(math.log(reached / base))
    found = interval(ratios)
    low, middle, high = (math.exp(each) for each in (found.low, found.mean, found.high))
    text = (
        f"{said(arm)} reaches the final {metric} of {said(over)} with {share:g} of its {budget} or less{within(where)}."
    )
    rule = (
        f"The ratio of {budget} at which each seed's curve first reaches the other's final value, interpolated in "
        f"logarithms: shown where its 95% interval lies below {share:g}, opposite where it lies above 1 or no seed "
        "reaches the value, not shown where some seeds do not."
    )
    figures = f"ratio {number(middle)} [{number(low)}, {number(high)}], n = {found.n}"
    verdict = SHOWN if high < share else OPPOSITE if low > 1 else NOT_SHOWN
    if missing:
        verdict, figures = UNDECIDED, lacking(missing)
    elif unreached:
        verdict = NOT_SHOWN if ratios else OPPOSITE
        figures = f"not reached by {unreached} of {unreached + len(ratios)} runs"
    elif found.n < 2:
        verdict, figures = UNDECIDED, f"ratio {number(middle)} of one run, no interval"
    return Finding("cheaper", text, rule, verdict, f"{figures}.")


RULES = {
    "optimum_moves": Rule(optimum_moves, ("metric", "axis", "along", "direction")),
    "beats": Rule(beats, ("metric", "arm", "over"), ("where", "each", "threshold")),
    "band_gains": Rule(band_gains, ("metric", "beside", "arm", "over"), ("where",)),
    "cheaper": Rule(cheaper, ("metric", "arm", "over"), ("budget", "share", "where")),
    "crossing": Rule(crossing, ("at", "costs", "over_costs"), ("name", "over_name", "where")),
}


def _each(
    cells: Cells, claim: Claim, arms: Sequence[Mapping[str, Any]], where: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The values of `each`, axes or "arm", at the places that a claim is about; one empty selector without it."""
    asked = claim.get("each", ())
    names = [asked] if isinstance(asked, str) else list(asked)
    cells.study.selector("The claim's each", {name: cells.study.known(name)[:1] for name in names})
    places = [place for place in cells.study.places if any(place.matches({**arm, **where}) for arm in arms)]
    found = [tuple((name, ({"arm": place.arm} | place.values)[name]) for name in names) for place in places]
    return [dict(each) for each in dict.fromkeys(found)]


def _threshold(claim: Claim) -> float:
    """The value that a side must be better than for a comparison to count, NaN without one."""
    value = claim.get("threshold")
    if value is not None and not is_number(value):
        raise UserError(f"The claim beats: threshold = {value!r} is no number.")
    return math.nan if value is None else float(value)


def _is_blind(cells: Cells, metric: str, arm: Any, over: Any, where: Any, threshold: float) -> bool:
    """True where the means of both sides are no better than the threshold."""
    values, sign = cells.values(metric), -1 if cells.study.goal(metric) == "min" else 1
    sides = zip(*pairs(cells, arm, over, where))
    found = [[value for place in set(side) for value in values[place].values()] for side in sides]
    return all(side and sign * (float(np.mean(np.sort(side))) - threshold) <= 0 for side in found)


def _names(selectors: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(map(said, selectors))


def _sided(low: float, high: float, sign: int) -> str:
    if sign * low > 0 and sign * high > 0:
        return SHOWN
    return OPPOSITE if sign * low < 0 and sign * high < 0 else NOT_SHOWN


def _together(verdicts: Sequence[str]) -> str:
    """Shown where all are, opposite where any is."""
    return OPPOSITE if OPPOSITE in verdicts else SHOWN if set(verdicts) == {SHOWN} else NOT_SHOWN


def _seed_deviation(cells: Cells, metric: str, arm: Any, over: Any, where: Any) -> float:
    """The standard deviation over seeds of a metric at `over`, averaged over its places."""
    values = cells.values(metric)
    found = [list(values[there].values()) for _, there in pairs(cells, arm, over, where)]
    deviations = [float(np.std(np.sort(each), ddof=1)) for each in found if len(each) > 1]
    return float(np.mean(deviations)) if deviations else math.nan
