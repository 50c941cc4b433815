"""A made-up study: the table that a sweep would leave, from a surface and a noise that are known."""

import csv
import json
from pathlib import Path

import numpy as np

ALPHAS, EPOCHS, SEEDS = (1.0, 0.9375, 0.75, 0.5, 0.125, 0.0), (1, 4, 16, 64), (0, 1, 2)
POINTS = 6  # evaluation points of a cell
BEGIN = (
    "cell arm axis/ALPHA axis/EPOCHS seed step last best tokens epochs unique_tokens flops seconds parameters version"
)
BEGIN = [*BEGIN.split(), "commit", "device", "status", "error"]
CLAIMS = [
    {
        "kind": "optimum_moves",
        "metric": "validation/causal",
        "axis": "ALPHA",
        "along": "EPOCHS",
        "direction": "falls",
    },
    {
        "kind": "beats",
        "metric": "best:validation/causal",
        "arm": {"ALPHA": 0.5},
        "over": [{"ALPHA": 1.0}, {"ALPHA": 0.0}],
        "where": {"EPOCHS": 64},
    },
    {
        "kind": "cheaper",
        "metric": "validation/causal",
        "arm": {"ALPHA": 0.5},
        "over": {"ALPHA": 1.0},
        "where": {"EPOCHS": 64},
    },
]


def surface(alpha, epochs):
    """A final loss whose best alpha falls from 15/16 at one epoch to about 1/8 at 64."""
    place = np.log2((alpha + 1 / 32) / (1 - alpha + 1 / 32))
    best = 3.0 - 0.9 * np.log2(epochs)
    return 4.4 + 0.08 * np.log2(epochs) + 0.09 * abs(place - best) ** 1.3


def rows_of(alphas=ALPHAS, epochs=EPOCHS, seeds=SEEDS, noise=0.04, function=surface, rng=0):
    """Rows of cells.csv as dicts; training overfits where the epochs are many."""
    draw, rows = np.random.default_rng(rng), []
    for alpha in alphas:
        for repeats in epochs:
            for seed in seeds:
                end, own = float(function(alpha, repeats)), []
                shift = noise * draw.standard_normal()
                for point in range(1, POINTS + 1):
                    part = point / POINTS
                    fall = 1.6 * (1 - part) ** 2 + 0.25 * (repeats / 64) * (part - 0.7) * (part > 0.7) * 4 * alpha
                    loss = end + fall - 0.25 * (repeats / 64) * 1.2 * alpha + shift
                    if point == POINTS:
                        loss = end + shift
                    own.append(
                        {
                            "cell": f"ALPHA={alpha},EPOCHS={repeats},seed={seed}", "arm": "", "axis/ALPHA": alpha,
                            "axis/EPOCHS": repeats, "seed": seed, "step": 100 * point, "last": point == POINTS,
                            "best": False, "tokens": 266_667 * point, "epochs": repeats * part,
                            "unique_tokens": 1_600_000 // repeats, "flops": 4.1e11 * point * (1 + 0.2 * (1 - alpha)),
                            "seconds": 9.5 * point, "parameters": 471_000, "version": "0.7.0", "commit": "1a2b3c4",
                            "device": "cpu", "status": "done", "error": "",
                            "train/causal": loss - 0.02 * np.log2(2 * repeats) * point * part,
                            "validation/causal": loss, "validation/diffusion": 5.6 + 0.3 * alpha + 0.3 * fall + shift,
                        }
                    )  # fmt: skip
                min(own, key=lambda row: row["validation/causal"])["best"] = True
                rows += own
    return rows


def study_of(rows, axes=("ALPHA", "EPOCHS"), **others):
    """study.json of rows."""
    first = {row["cell"]: row for row in rows}
    values = {axis: list(dict.fromkeys(row[f"axis/{axis}"] for row in rows)) for axis in axes}
    return {
        "name": "dual",
        "recipe": "dual.gin",
        "axes": values,
        "arms": [arm for arm in dict.fromkeys(row["arm"] for row in rows) if arm],
        "seeds": sorted({row["seed"] for row in rows}),
        "cells": [
            {
                "cell": name,
                "arm": row["arm"],
                "axes": {axis: row[f"axis/{axis}"] for axis in axes},
                "seed": row["seed"],
            }
            for name, row in first.items()
        ],
        "metrics": {"validation/causal": "min", "best:validation/causal": "min"},
        "baseline": {"ALPHA": 1.0},
        "claims": CLAIMS,
        "version": "0.7.0",
    } | others


def written(folder: Path, rows, study=None) -> Path:
    """Writes cells.csv and study.json into a folder; returns the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(folder / "cells.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "study.json").write_text(json.dumps(study or study_of(rows)))
    return folder / "cells.csv"
