"""Tables: rows and columns as values, text, HTML, CSV and a DataFrame."""

import csv
import math
import os

import pytest

from mixlm.errors import UserError
from mixlm.reports.table import SHOWN, Table, cell

ROWS = [{"step": 1, "loss": 4.5, "stage": "a<b"}, {"step": 2, "loss": math.nan}, {"step": 30_000, "tau": True}]


def test_rows_and_columns_are_values():
    table = Table(ROWS)
    assert table.columns == ["step", "loss", "stage", "tau"]
    assert table["stage"] == ["a<b", None, None] and table[0] == ROWS[0] and len(table) == 3
    assert list(table) == ROWS and table[1:].rows == ROWS[1:]
    assert table.select("tau", "step").columns == ["tau", "step"]
    with pytest.raises(KeyError, match="no column 'los'"):
        _ = table["los"]


def test_text_aligns_and_html_escapes():
    lines = str(Table(ROWS)).splitlines()
    assert lines[0].split() == ["step", "loss", "stage", "tau"]
    assert lines[3].split() == ["30,000", "-", "-", "True"]
    assert len({line.index("e") for line in lines[:1]}) == 1
    assert "<td>a&lt;b</td>" in Table(ROWS)._repr_html_()


def test_a_long_table_shows_its_first_and_last_rows():
    table = Table([{"step": step} for step in range(10 * SHOWN)])
    lines = str(table).split()
    assert len(lines) == SHOWN + 2 and "..." in lines
    assert {"0", str(10 * SHOWN - 1)} <= set(lines) and str(5 * SHOWN) not in lines
    assert f"{10 * SHOWN} rows" in table._repr_html_()


def test_csv_and_pandas_hold_every_row(tmp_path):
    table = Table(ROWS)
    table.to_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [row["step"] for row in read] == ["1", "2", "30000"] and read[1]["tau"] == ""
    pytest.importorskip("pandas")
    assert table.to_pandas()["step"].tolist() == table["step"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0.0, "0.0000"),
        (12345, "12,345"),
        (1e-5, "1e-05"),
        (2e9, "2e+09"),
        (math.inf, "inf"),
        ("a", "a"),
    ],
)
def test_a_cell_is_short(value, shown):
    assert cell(value) == shown


def test_an_empty_table_is_one():
    assert str(Table([])) == "" and Table([])._repr_html_().startswith("<table>")


def test_a_table_is_written_to_a_file_alone(tmp_path):
    """A link may be /dev/stdout, which neither is to be replaced nor to lead to a place that another chose."""
    (tmp_path / "outside").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "pipe")
    for place in ("link", "pipe", "."):
        with pytest.raises(UserError, match="is a link or no regular file"):
            Table([{"step": 1}]).to_csv(tmp_path / place)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "outside").read_text() == "kept"
