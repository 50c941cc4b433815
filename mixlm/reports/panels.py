"""The panels of a run's curves: which figures of its records in which panel, in which style, and the levels beside."""

from collections.abc import Mapping, Sequence
from typing import Any

# Okabe & Ito's palette, told apart under every common colour blindness; black is kept for levels of several terms.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Inches of each row: the terms are what one reads, the weighted total and the shares are beside it.
TERMS, LABELS, TOTAL, ACCURACY, SHARE = "nats per scored token", "nats per label", "loss", "accuracy", "share"
HEIGHTS = {TERMS: 4.0, LABELS: 2.0, TOTAL: 1.5, ACCURACY: 2.2, SHARE: 1.5}
# Levels to beat, `yardstick/TERM/KIND` of the last record: each kind's panel, words and dash.
YARDSTICKS: dict[str, tuple[str, str, Any]] = {
    "unigram": (TERMS, "unigram entropy", (0, (1, 1.5))),
    "bigram": (TERMS, "bigram", (0, (4, 1.5, 1, 1.5))),
    "labels": (LABELS, "entropy of the labels", (0, (1, 1.5))),
    "majority": (ACCURACY, "majority", (0, (1, 1.5))),
}
CLOSE = 0.04  # Ours, of a panel's height: levels of one kind that lie so close are one line.
# Sums, and costs beside the term's own.
_NOT_DRAWN = ("/cross_entropy", "/tokens", "/mass")


def panels(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The keys to draw in each panel, in the order of their first appearance; a panel without any is left out.

    A term is `train/NAME` or `validation/NAME`; one with a figure `NAME/replaced` judges labels, and has a scale of its
    own. `NAME/FIGURE` is only reported, and drawn where it is a share of 1, or the cost of a band of token frequencies
    (`NAME/top_80%`).
    """
    keys = [key for key in dict.fromkeys(key for record in records for key in record) if "/" in key or key == TOTAL]
    keys = [key for key in keys if key == TOTAL or key.startswith(("train/", "validation/"))]
    detectors = {name_of(key).removesuffix("/replaced") for key in keys if key.endswith("/replaced")}
    found: dict[str, list[str]] = {panel: [] for panel in HEIGHTS}
    for key in keys:
        if not key.endswith(_NOT_DRAWN):
            found[_panel_of(key, detectors)].append(key)
    return {panel: members for panel, members in found.items() if members}


def _panel_of(key: str, detectors: set[str]) -> str:
    if key == TOTAL:
        return TOTAL
    if "/" not in name_of(key) or key.endswith("%"):
        return LABELS if name_of(key) in detectors else TERMS
    return ACCURACY if key.endswith("/accuracy") else SHARE


def name_of(key: str) -> str:
    """A figure's name, the same in training and in validation."""
    return key.removeprefix("train/").removeprefix("validation/")


def owner_of(key: str) -> str:
    """The owner of a colour: a term with its accuracy and shares, or a band of one."""
    name = name_of(key)
    return name if name.endswith("%") else name.split("/")[0]


def spoken(name: str) -> str:
    """A name as a legend has it."""
    return name.replace("_", " ").replace("/", " ")


def styles(rows: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """The style of each key: a colour for each term in all panels, dashes for validation."""
    keys = [key for members in rows.values() for key in members if key != TOTAL]
    names = list(dict.fromkeys(map(owner_of, keys)))
    found: dict[str, dict[str, Any]] = {TOTAL: {"color": "#444444", "linewidth": 1.6, "linestyle": "solid"}}
    for key in keys:
        number = names.index(owner_of(key))
        # Past the palette's end, the dash tells apart.
        dash: Any = "solid" if number < len(PALETTE) else (0, (1, 1.2))
        validation = key.startswith("validation/")
        found[key] = {
            "color": PALETTE[number % len(PALETTE)],
            "linewidth": 1.6,
            "linestyle": (0, (4, 1.2)) if validation else dash,
        }
    return found


def legend_of(key: str, keys: Sequence[str], panel: str) -> str | None:
    """A line's words in its panel's legend; None for validation beside training, which its dashes tell."""
    if key.startswith("validation/") and f"train/{name_of(key)}" in keys:
        return None
    words = spoken(owner_of(key) if panel == ACCURACY else name_of(key))
    return f"{words} (validation)" if key.startswith("validation/") else words


def levels(records: Sequence[Mapping[str, Any]], panel: str, height: float) -> list[tuple[str, float, list[str]]]:
    """A panel's levels to beat as (kind, value, terms): those of several terms that lie close are one."""
    last: Mapping[str, Any] = next(
        (record for record in reversed(records) if any(key.startswith("yardstick/") for key in record)), {}
    )
    found: list[tuple[str, float, list[str]]] = []
    for key, value in last.items():
        _, _, kind = key.rpartition("/")
        if not key.startswith("yardstick/") or YARDSTICKS.get(kind, ("",))[0] != panel:
            continue
        term = key.removeprefix("yardstick/").removesuffix(f"/{kind}")
        near = next((each for each in found if each[0] == kind and abs(each[1] - value) <= CLOSE * height), None)
        if near is None:
            found.append((kind, float(value), [term]))
        else:
            near[2].append(term)
    return found
