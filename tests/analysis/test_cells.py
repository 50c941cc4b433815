"""Laws of cells.csv: what is read from it, and the one sentence for a table that belongs to no study."""

import json

import pytest
from support.made_up_study import rows_of, study_of, written

from mixlm.analysis.cells import read_cells
from mixlm.analysis.study import Place
from mixlm.api.report import report
from mixlm.errors import UserError

FEW = {"alphas": (1.0, 0.5), "epochs": (1, 64), "seeds": (0, 1)}


def test_a_metric_is_read_at_the_end_and_at_the_best_checkpoint(tmp_path):
    rows = rows_of(**FEW)
    cells = read_cells(written(tmp_path, rows))
    place = Place("", (("ALPHA", 1.0), ("EPOCHS", 64)))
    own = [row["validation/causal"] for row in rows if row["cell"] == "ALPHA=1.0,EPOCHS=64,seed=1"]
    assert cells.values("validation/causal")[place][1] == own[-1]
    assert cells.values("best:validation/causal")[place][1] == min(own) < own[-1]


def test_an_evaluation_has_a_column_of_its_own_for_the_best_checkpoint(tmp_path):
    rows = rows_of(**FEW)
    for row in rows:
        for name, value in (("evaluation/blimp/causal/overall", 60.5), ("evaluation@best/blimp/causal/overall", 61.5)):
            row[name] = value if row["last"] else ""
    cells = read_cells(written(tmp_path, rows))
    for metric, value in (("evaluation/blimp/causal/overall", 60.5), ("best:evaluation/blimp/causal/overall", 61.5)):
        assert {each for seeds in cells.values(metric).values() for each in seeds.values()} == {value}
    assert cells.study.goal("best:evaluation/blimp/causal/overall") == "max"


def test_a_cell_that_failed_or_is_missing_has_no_value_and_is_named(tmp_path):
    rows = rows_of(**FEW)
    study = study_of(rows)
    lost, broken = "ALPHA=0.5,EPOCHS=1,seed=0", "ALPHA=0.5,EPOCHS=1,seed=1"
    kept = [row for row in rows if row["cell"] != lost]
    for row in kept:
        if row["cell"] == broken:
            row |= {"status": "failed", "error": "The loss is not finite at step 300."}
    cells = read_cells(written(tmp_path, kept, study))
    assert cells.incomplete("validation/causal") == [lost, broken]
    assert cells.failed == [(broken, "failed", "The loss is not finite at step 300."), (lost, "missing", "")]


def test_a_study_that_names_no_metric_is_decided_by_its_validation_losses(tmp_path):
    rows = rows_of(**FEW)
    cells = read_cells(written(tmp_path, rows, study_of(rows, metrics={})))
    assert cells.study.metrics == {"validation/causal": "min", "validation/diffusion": "min"}


def test_versions_that_are_mixed_are_told_apart(tmp_path):
    rows = rows_of(**FEW)
    for row in rows[:6]:
        row["commit"] = "ffff000"
    cells = read_cells(written(tmp_path, rows))
    assert cells.strangers == {rows[0]["cell"]}
    assert [len(names) for names in cells.versions.values()] == [7, 1]


def without(name):
    return lambda rows, study: [row.pop(name) for row in rows]


def of(**others):
    return lambda rows, study: study.update(others)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("seed"), ["lacks the column 'seed'", "it has cell, arm, axis/ALPHA"]),
        (without("axis/EPOCHS"), ["lacks the column 'axis/EPOCHS'"]),
        (of(axes={"ALPHA": [1.0, 0.5]}, cells=[]), ["another study", "'axis/EPOCHS'", "ALPHA"]),
        (of(cells=[]), ["another study", "expects no cell 'ALPHA=1.0,EPOCHS=1,seed=0'"]),
        (of(metrics={"validation/casual": "min"}), ["no column", "Did you mean 'validation/causal'?"]),
        (of(metrics={"validation/causal": "low"}), ["'min' or 'max', not 'low'"]),
        (of(claims=[{"kind": "beat"}]), ["'beat'", "Did you mean 'beats'?"]),
        (of(claims=[{"kind": "beats", "metric": "validation/causal", "arm": {"ALPHA": 0.5}}]), ["lacks 'over'"]),
        (of(baseline={"ALPA": 1.0}), ["'ALPA'", "Did you mean 'ALPHA'?"]),
        (of(baseline={"ALPHA": 0.7}), ["ALPHA 0.7", "1.0, 0.5"]),
        (of(cells="all"), ["no study.json", "'cells' is no array"]),
        (lambda rows, study: rows.clear() or rows.append({"cell": ""}), ["lacks the column"]),
        (lambda rows, study: [row.update(status="failed") for row in rows], ["no cell that is done"]),
    ],
)  # fmt: skip
def test_a_table_of_no_study_is_one_sentence(tmp_path, change, words):
    rows = rows_of(**FEW)
    study = study_of(rows, claims=[])
    change(rows, study)
    table = written(tmp_path, rows, study)
    with pytest.raises(UserError) as caught:
        report(table)
    sentence = str(caught.value)
    assert all(word in sentence for word in words), sentence
    assert sentence.count("\n") == 0 and not (tmp_path / "report").exists()


def test_what_holds_no_study_is_one_sentence(tmp_path):
    (tmp_path / "study").mkdir()
    table = written(tmp_path / "alone", rows_of(**FEW))
    (tmp_path / "alone" / "study.json").unlink()
    for path, words in [
        (tmp_path / "study", "holds no run and no study"),
        (tmp_path / "stud", "Did you mean"),
        (table, "no study.json beside it"),
    ]:
        with pytest.raises(UserError, match=words):
            report(path)


def test_a_table_without_rows_has_nothing_to_report(tmp_path):
    rows = rows_of(**FEW)
    table = written(tmp_path, rows)
    table.write_text(table.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="no rows"):
        report(table)
    (tmp_path / "study.json").write_text(json.dumps(study_of(rows)))
