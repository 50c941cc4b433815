"""Claims of a study: each a rule that was written down before the runs, with the verdict that its table gives it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixlm.analysis.cells import Cells
from mixlm.analysis.paired import Difference, paired
from mixlm.analysis.study import NotInGrid, Place, shown
from mixlm.errors import UserError, nearest

SHOWN, NOT_SHOWN, OPPOSITE, UNDECIDED = "shown", "not shown", "opposite", "undecided"
Selector = dict[str, Any]
Claim = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """A claim's kind, what it says, the rule of its verdict, the verdict, and the figures that it rests on."""

    kind: str
    claim: str
    rule: str
    verdict: str
    figures: str


@dataclass(frozen=True)
class Rule:
    """A kind of claim: the arguments it must have, those it may have, and the function that judges it."""

    judge: Callable[[Cells, Mapping[str, Any]], Finding]
    needs: tuple[str, ...]
    may: tuple[str, ...] = ()


def judge(cells: Cells, rules: Mapping[str, Rule]) -> list[Finding]:
    """The findings of a study's claims in order; UserError for a claim of no known kind or with other arguments."""
    found = []
    for number, claim in enumerate(cells.study.claims, start=1):
        kind, where = str(claim.get("kind")), f"Claim {number} of {cells.study.name}"
        if kind not in rules:
            raise UserError(f"{where} is of kind {kind!r}, and kinds are {', '.join(rules)}.{nearest(kind, rules)}")
        rule = rules[kind]
        for name in rule.needs:
            if name not in claim:
                raise UserError(f"{where}, {kind}, lacks {name!r}; it needs {', '.join(rule.needs)}.")
        known = ("kind", "text", *rule.needs, *rule.may)
        for name in claim:
            if name not in known:
                raise UserError(f"{where}, {kind}, has no argument {name!r}.{nearest(name, known)}")
        try:
            finding = rule.judge(cells, claim)
        except NotInGrid as absent:
            asked = f"{kind}: {', '.join(f'{name} {value}' for name, value in claim.items() if name != 'kind')}"
            finding = Finding(kind, asked, "A claim about cells that the study does not have.", UNDECIDED, str(absent))
        # A sentence of the study's own takes the place of the one that the arguments make.
        text = str(claim.get("text") or finding.claim)
        found.append(Finding(kind, text, finding.rule, finding.verdict, finding.figures))
    return found


def selected(cells: Cells, kind: str, asked: Any) -> list[Selector]:
    """One selector, or each of a list, by plain names; a list of values inside of one is several selectors."""
    found: list[Selector] = []
    for each in asked if isinstance(asked, list | tuple) else [asked]:
        chosen = [cells.study.selector(f"The claim {kind}", each)]
        for name in list(chosen[0]):
            chosen = [
                {**one, name: value}
                for one in chosen
                for value in (one[name] if isinstance(one[name], list | tuple) else [one[name]])
            ]
        found += chosen
    return found


def said(selector: Mapping[str, Any]) -> str:
    """A selector in words."""
    parts = []
    for name, value in selector.items():
        values = value if isinstance(value, list | tuple) else [value]
        text = " or ".join(map(shown, values))
        parts.append(text if name == "arm" else f"{name} {text}")
    return ", ".join(parts)


def within(where: Mapping[str, Any]) -> str:
    """The words for a claim's `where`."""
    return f" at {said(where)}" if where else ""


def pairs(cells: Cells, arm: Selector, over: Selector, where: Selector) -> list[tuple[Place, Place]]:
    """Places of `arm` with their counterparts in `over`, which differ in nothing else where the grid has such.

    Raises UserError where either is nowhere in the study.
    """
    places = cells.study.places
    here = [place for place in places if place.matches({**arm, **where})]
    there = [place for place in places if place.matches({**over, **where})]
    for name, found in ((arm, here), (over, there)):
        if not found:
            raise NotInGrid(f"{cells.study.name} has no cell of {said(name)}{within(where)}, which a claim is about.")
    matched = [(place, place.moved(over)) for place in here if place.moved(over) in there]
    if matched:
        return matched
    if len(there) == 1 or len(here) == 1:
        return [(one, other) for one in here for other in there]
    raise UserError(f"{cells.study.name} has no counterpart of {said(arm)} in {said(over)}{within(where)}.")


def by_seed(
    cells: Cells, values: Mapping[Place, Mapping[int, float]], matched: Sequence[tuple[Place, Place]]
) -> tuple[list[float], bool]:
    """(the difference of each seed, a mean over the pairs of places; True where no pair lacks a seed).

    Pairs of one seed at several places are one value: they are no independent draws of the seed.
    """
    seeds = sorted({cell.seed for cell in cells.study.cells if any(cell.place in pair for pair in matched)})
    found, complete = [], True
    for seed in seeds:
        both = [(values[one].get(seed), values[other].get(seed)) for one, other in matched]
        if any(one is None or other is None for one, other in both):
            complete = False
            continue
        found.append(sum(one - other for one, other in both if one is not None and other is not None) / len(both))
    return found, complete


def difference(cells: Cells, metric: str, arm: Selector, over: Selector, where: Selector) -> tuple[Difference, bool]:
    """(the paired difference in a metric of `arm` less `over`, True where no cell is missing)."""
    found, complete = by_seed(cells, cells.values(metric), pairs(cells, arm, over, where))
    return paired(found), complete


def lacking(cells: Sequence[str], most: int = 4) -> str:
    """The cells that are missing, the first few by name."""
    named = ", ".join(f"`{name}`" for name in cells[:most])
    rest = f" and {len(cells) - most} more" if len(cells) > most else ""
    return f"no value of {named}{rest}"


def where_of(cells: Cells, claim: Claim) -> dict[str, Any]:
    """The axes and values that a claim is restricted to."""
    return cells.study.selector("The claim's where", claim.get("where") or {})
