"""Files of scores by item hold the same in both formats."""

import json

import pytest

from mixlm.evaluation.item_scores import write_items


def test_parquet_holds_what_json_lines_hold(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    token = {"text": " a", "offset": 0, "scores": {"causal": -1.5, "pll": None}}
    records = [
        {"set": "text", "row": 3, "text": "a", "scores": {"causal": -1.5, "pll": float("-inf")}, "tokens": [token]},
        {"set": "pairs", "paradigm": "x", "text": "é", "scores": {"causal": -2.0, "pll": -3.0}, "tokens": [token] * 2},
    ]
    write_items(tmp_path / "a.jsonl", records)
    write_items(tmp_path / "a.parquet", records)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["scores"]["pll"] is None and lines[1]["text"] == "é"
    rows = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [{name: value for name, value in row.items() if name in line} for row, line in zip(rows, lines)] == lines
    assert rows[0]["paradigm"] is None and rows[1]["row"] is None
