"""The claim `crossing`: the point where one cost falls below another."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixlm.analysis.cells import Cells
from mixlm.analysis.claims import NOT_SHOWN, OPPOSITE, SHOWN, UNDECIDED, Claim, Finding, where_of, within
from mixlm.analysis.intervals import Interval, interval
from mixlm.analysis.paired import BETTER, LEVEL, WORSE, holm, paired
from mixlm.analysis.study import NotInGrid
from mixlm.analysis.words import number
from mixlm.errors import UserError


def crossing(cells: Cells, claim: Claim) -> Finding:
    """The point where one cost falls below another: `costs` and `over_costs` name a metric for each point of `at`."""
    at, mine, theirs = list(claim["at"]), list(claim["costs"]), list(claim["over_costs"])
    if not len(at) == len(mine) == len(theirs) > 1 or at != sorted(at) or min(at) <= 0:
        raise UserError(
            "The claim crossing needs as many costs and over_costs as points in at, which rise from above 0 and are two"
            " or more."
        )
    where = where_of(cells, claim)
    places = [place for place in cells.study.places if place.matches(where)]
    if not places:
        raise NotInGrid(f"{cells.study.name} has no cell{within(where)}, which the claim crossing is about.")
    logs, complete = _log_ratios(cells, places, mine, theirs)
    tests = holm([paired(each) for each in logs])
    verdicts = [test.verdict("min") for test in tests]
    name, other = claim.get("name", mine[0]), claim.get("over_name", theirs[0])
    text = f"{name} costs more than {other} at {at[0]:g} and less at {at[-1]:g}{within(where)}."
    rule = (
        "The logarithm of the ratio of costs, by seed, Student's t, Holm's correction over the points: shown where it "
        f"is above 0 at the first point and below 0 at the last with adjusted p below {LEVEL}, opposite where the signs"
        " are the other way round."
    )
    ratios = [f"{point:g}: {number(math.exp(test.interval.mean))}" for point, test in zip(at, tests)]
    figures = f"ratios at {', '.join(ratios)}"
    # Seeds are lined up at every point only where none is missing.
    figures += f"; {_crossed(at, logs)}" if complete else "; cells are missing"
    verdict = NOT_SHOWN
    if not complete or UNDECIDED in verdicts:
        verdict = UNDECIDED
    elif (verdicts[0], verdicts[-1]) == (WORSE, BETTER):
        verdict = SHOWN
    elif (verdicts[0], verdicts[-1]) == (BETTER, WORSE):
        verdict = OPPOSITE
    return Finding("crossing", text, rule, verdict, f"{figures}.")


def _log_ratios(
    cells: Cells, places: Sequence[Any], mine: Sequence[str], theirs: Sequence[str]
) -> tuple[list[list[float]], bool]:
    """(for each point, the logarithm of the ratio of costs of each seed; True where none is missing)."""
    logs, complete = [], True
    expected = [cell for cell in cells.study.cells if cell.place in places]
    for one, other in zip(mine, theirs):
        first, second = cells.values(one), cells.values(other)
        ratios: dict[int, list[float]] = {}
        for cell in expected:
            costs = first[cell.place].get(cell.seed, 0.0), second[cell.place].get(cell.seed, 0.0)
            if min(costs) > 0:
                ratios.setdefault(cell.seed, []).append(math.log(costs[0] / costs[1]))
            else:
                complete = False
        logs.append([float(np.mean(ratios[seed])) for seed in sorted(ratios)])
    return logs, complete


def _crossed(at: Sequence[float], logs: Sequence[Sequence[float]]) -> str:
    """The point at which the ratio is 1, interpolated in logarithms for each seed, with its interval."""
    found = []
    for curve in zip(*logs):
        for (a, here), (b, there) in zip(zip(at, curve), zip(at[1:], curve[1:])):
            if here > 0 >= there or here < 0 <= there:
                found.append(math.log(a) + here / (here - there) * math.log(b / a))
                break
    if len(found) < len(logs[0]) or not found:
        return f"{len(found)} of {len(logs[0])} seeds cross"
    spread: Interval = interval(found)
    middle, low, high = (number(math.exp(each)) for each in (spread.mean, spread.low, spread.high))
    return f"the crossing is at {middle} [{low}, {high}], n = {spread.n}"
