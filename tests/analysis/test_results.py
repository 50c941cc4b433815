"""A study's results by one call: the made-up study's own numbers, and no interval where there is no regression."""

import numpy as np
import pytest
from support.made_up_study import rows_of, study_of, surface, written

import mixlm
from mixlm.analysis.decodings import decoding_curves
from mixlm.errors import UserError


def test_a_table_has_the_means_of_the_rows(tmp_path):
    rows = rows_of(alphas=(1.0, 0.0), epochs=(1, 64), noise=0.04)
    found = mixlm.results(written(tmp_path, rows))
    ends = [row for row in rows if row["last"]]
    assert len(found.table("validation/causal")) == 4
    for row in found.table("validation/causal"):
        own = [
            e["validation/causal"] for e in ends if (e["axis/ALPHA"], e["axis/EPOCHS"]) == (row["ALPHA"], row["EPOCHS"])
        ]
        assert row["n"] == 3 and np.isclose(row["mean"], np.mean(own)) and row["low"] < row["mean"] < row["high"]
    assert found.frame.shape[0] == len(rows) and "4 of 4" not in repr(found) and "12 of 12 cells" in repr(found)


def test_the_verdicts_are_those_that_the_studys_readme_states():
    assert mixlm.results("mile").verdicts["verdict"] == ["shown", "not shown", "opposite", "not shown"]


def test_too_few_values_give_the_best_measured_cell_and_no_interval(tmp_path):
    found = mixlm.results(written(tmp_path, rows_of(alphas=(1.0, 0.5, 0.0), seeds=(0,), noise=0.0)))
    best = found.best("validation/causal", "ALPHA")
    for row in best.table:
        assert row["best ALPHA"] == min((1.0, 0.5, 0.0), key=lambda alpha: surface(alpha, row["EPOCHS"]))
        assert row["low"] is None and row["high"] is None
    assert "without an interval" in best.note and best.figure[:4] == b"\x89PNG" and "None" not in best._repr_html_()


@pytest.mark.slow
def test_a_regression_finds_the_surfaces_best_and_says_that_there_is_one_seed(tmp_path):
    found = mixlm.results(written(tmp_path, rows_of(seeds=(0,), noise=0.01))).best("validation/causal", "ALPHA")
    low = {row["EPOCHS"]: row for row in found.table}
    assert low[1]["low"] > low[64]["high"] and "One seed" in found.note


def test_exact_answers_stand_at_their_calls(tmp_path):
    rows = []
    for arm, shift in (("ar", 0.0), ("ar2diff", 0.2)):
        for seed in (0, 1):
            row = {"cell": f"{arm}{seed}", "arm": arm, "axis/ALPHA": 1.0, "seed": seed, "step": 9, "last": True}
            row |= {"best": True, "status": "done", "error": "", "validation/causal": 1.0}
            for label, calls, exact in (("autoregressive", 7.0, 0.5), ("unrolled_steps_10_samples_8", 10.0, 0.4),
                                        ("unrolled_steps_1_samples_8", 1.0, 0.1)):  # fmt: skip
                head = f"evaluation/exact/{label}"
                row |= {f"{head}/exact": exact + shift + 0.1 * seed, f"{head}/calls": calls}
            rows.append(row)
    found = mixlm.results(written(tmp_path, rows, study_of(rows, axes=("ALPHA",), claims=[], baseline={})))
    curves = decoding_curves(found.cells)
    (steps,) = [
        curve for place, own in curves.items() if "ar2diff" in place for name, curve in own.items() if "unr" in name
    ]
    np.testing.assert_allclose([point[:2] for point in steps], [(1.0, 0.35), (10.0, 0.65)])
    assert found.decodings()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="no column evaluation/text/DECODING/exact"):
        found.decodings("text")


def test_the_tables_that_come_with_mixlm_are_found_by_name():
    assert "spactor" in repr(mixlm.results("spactor"))
    with pytest.raises(UserError, match="Did you mean 'spactor'"):
        mixlm.results("spacter")
