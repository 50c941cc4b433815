"""Laws of a report: the same whatever the order of rows, complete only where the grid is, and traced to cells."""

import csv
import random
import re

import pytest
from support.html_reader import Reader
from support.made_up_study import CLAIMS, rows_of, study_of, written

from mixlm.analysis import gaussian_process, optimum, sections, sections_of_training
from mixlm.analysis.gaussian_process import fit
from mixlm.analysis.report import report

METRICS = {"validation/causal": "min"}


@pytest.fixture
def quick(monkeypatch):
    """No figures, and a Gaussian process without a chain: what a report says in a second."""
    for module in (sections, sections_of_training):
        for name in [name for name in vars(module) if name.endswith("_figure")]:
            monkeypatch.setattr(module, name, lambda *_: b"png")
    monkeypatch.setattr(optimum, "DRAWS", 200)
    monkeypatch.setattr(gaussian_process, "RESTARTS", 0)
    monkeypatch.setattr(optimum, "fit", lambda inputs, values: fit(inputs, values, chain=0))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shuffled(rows, seed=0):
    return random.Random(seed).sample(rows, len(rows))


def check_order(tmp_path, rows, study):
    first = report(written(tmp_path / "a", rows, study))
    mixed = study | {"cells": shuffled(study["cells"]), "seeds": shuffled(study["seeds"])}
    second = report(written(tmp_path / "b", shuffled(rows), mixed))
    assert files(first.folder) == files(second.folder)
    again = report(tmp_path / "a" / "cells.csv")
    assert files(first.folder) == files(again.folder) and again.markdown == first.markdown
    return first


def test_rows_in_any_order_give_the_same_report_and_so_does_its_table(quick, tmp_path):
    rows = rows_of(epochs=(1, 64), seeds=(0, 1))
    found = check_order(tmp_path, rows, study_of(rows, metrics=METRICS, claims=CLAIMS[1:]))
    assert {each.verdict for each in found.findings} <= {"shown", "not shown", "opposite"}
    means = list(csv.DictReader((found.folder / "validation_causal_means.csv").read_text().splitlines()))
    for row in means:
        ends = [each["validation/causal"] for each in rows if each["cell"] in row["cells"].split(" ") and each["last"]]
        assert float(row["mean"]) == pytest.approx(sum(ends) / len(ends), rel=1e-12) and int(row["n"]) == len(ends)


def test_a_grid_that_is_incomplete_has_an_optimum_only_when_asked(quick, tmp_path):
    rows = rows_of(epochs=(1, 64), seeds=(0, 1))
    study, lost = study_of(rows, metrics=METRICS, claims=[]), "ALPHA=0.5,EPOCHS=1,seed=1"
    table = written(tmp_path, [row for row in rows if row["cell"] != lost], study)
    without, with_it = report(table), report(table, partial=True)
    assert "No optimum: the grid is incomplete, with 1 of 24 cells missing" in without.markdown
    assert f"`{lost}`" in without.markdown and "validation_causal_best_alpha.csv" not in without.tables
    assert "**From an incomplete grid**" in with_it.markdown and f"`{lost}`" in with_it.markdown
    assert len(with_it.tables["validation_causal_best_alpha.csv"]) == 2


def test_what_failed_and_what_is_of_another_version_is_said_and_marked(quick, tmp_path):
    rows = rows_of(alphas=(1.0, 0.5), epochs=(1, 64), seeds=(0, 1))
    for row in rows[:12]:
        row |= {"commit": "ffff000"} if row["seed"] == 0 else {"status": "failed", "error": "The loss | is not finite."}
    found = report(written(tmp_path, rows, study_of(rows, metrics=METRICS, claims=[])))
    assert "**Cells of different code versions are mixed.**" in found.markdown and "†" in found.markdown
    assert "0.7.0 ffff000 in `ALPHA=1.0,EPOCHS=1,seed=0`" in found.markdown
    assert "The loss \\| is not finite." in found.markdown
    page, reader = (found.folder / "report.html").read_text(), Reader()
    reader.feed(page)
    assert "The loss | is not finite." in reader.text and all(each.startswith("data:") for each in reader.addresses)
    # Of scripts it has the data of its curves, plotly, and its own; no address stands outside of them.
    assert page.count("<script") == 3 and "http" not in reader.text


def test_every_file_that_is_named_is_there_and_no_other(quick, tmp_path):
    rows = rows_of(epochs=(1, 64), seeds=(0, 1))
    found = report(written(tmp_path, rows, study_of(rows, metrics=METRICS, claims=[])))
    named = set(re.findall(r"[\w.]+\.(?:png|csv)", found.markdown)) - {"cells.csv"}
    assert named | {"report.md", "report.html"} == set(files(found.folder))
    import pandas

    assert len(pandas.read_parquet(tmp_path / "cells.parquet")) == len(rows)


@pytest.mark.slow
def test_a_whole_report_with_its_figures_is_the_same_bytes_in_any_order(tmp_path):
    from plotly.offline import get_plotlyjs

    rows = rows_of()
    found = check_order(tmp_path, rows, study_of(rows))
    assert found.findings[0].verdict == "shown"
    kept = files(found.folder)
    assert len(kept["report.html"]) < 8_000_000
    # All but the script of plotly, which the page holds.
    assert sum(map(len, kept.values())) - len(get_plotlyjs().encode()) < 1_900_000
