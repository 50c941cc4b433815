"""The studies that were run: what their pages say is what their tables give."""

import re

import pytest
from support.places import ROOT

from mixlm.analysis.cells import read_cells
from mixlm.analysis.claim_rules import RULES
from mixlm.analysis.claims import judge

TABLES = sorted((ROOT / "studies").glob("*/cells.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=[table.parent.name for table in TABLES])
def test_a_pages_verdicts_are_those_of_its_table(table):
    page = (table.parent / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| .* \| \*\*(shown|not shown|opposite|undecided)\*\* \|", page, re.MULTILINE)
    assert told == [finding.verdict for finding in judge(read_cells(table), RULES)]


def test_pages_show_figures_that_are_there_and_studies_are_small():
    assert TABLES
    for table in TABLES:
        page = (table.parent / "README.md").read_text(encoding="utf-8")
        figures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page)
        assert figures, f"{table.parent.name} shows no figure"
        assert all((table.parent / figure).is_file() for figure in figures)
        kept = [path for path in table.parent.rglob("*") if path.is_file() and "report" not in path.parts]
        assert sum(path.stat().st_size for path in kept) < 2_000_000
