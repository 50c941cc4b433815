"""Laws of a run's page: it holds all and loads nothing, says what the run's files say, and runs without an error."""

import json
import re
import shutil

import pytest
from support.html_reader import Reader
from support.made_up_run import KILLED, STEPS, TAU, WORDS, made_up_run
from support.made_up_study import rows_of, study_of, written

from mixlm.analysis import charts
from mixlm.analysis.cell_curves import cell_curves
from mixlm.analysis.cells import read_cells
from mixlm.analysis.document import Document, Text
from mixlm.analysis.run_page.examples import thinned
from mixlm.api.report import report
from mixlm.cli.report import parse
from mixlm.errors import UserError


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run's folder with its page, drawn by a script that is no more than its name."""
    pytest.importorskip("plotly")
    folder = made_up_run(tmp_path_factory.mktemp("made") / "spactor-0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "plotly_script", lambda: "plotly")
        patch.setattr("mixlm.analysis.run_page.curves.plotly_script", lambda: "plotly")
        report(folder)
    return folder


def test_the_page_says_what_the_files_say_without_a_script(made):
    found = read(made / "report.html")
    assert [each for each in found.addresses if not each.startswith("data:")] == []
    for words in (
        f"Finished after {STEPS} steps",
        "mixlm 0.8.0, commit 1a2b3c4d5e6f",
        "99" * 32,
        "each seen 2.41 times",
        "1 x cpu, mesh data 1",
        f"Not whole: the checkpoint of step {KILLED + 10} (cut short).",
        "without a word: killed",
        f"{464 * TAU:,}",
        "72.7%",  # the model's share of FLOPs, 8 of 11
        "TEXT = '<b>&'",
        "and <i>collect</i>",
    ):
        assert words in found.text, words


def test_examples_stand_in_the_order_in_which_they_formed(made):
    content = (made / "report.html").read_text()
    (row,) = re.findall(r"<summary>example 1, causal</summary>(.*?)</details>", content, re.S)
    rights = [part.count("class='right token'") for part in re.split(r"step \d+</span>", row)[1:]]
    assert rights == [round(step / STEPS * len(WORDS)) for step in range(50, STEPS + 1, 50)]


def test_the_data_of_a_page_are_the_run_s(made):
    data = json.loads(read(made / "report.html").data)
    assert data["axes"] == ["step", "flops", "tokens", "epoch"]
    records = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    (line,) = [line for panel in data["panels"] for line in panel["lines"] if line["name"] == "rtd (validation)"]
    wanted = [(record["step"], 0.47) for record in records if "validation/rtd" in record]
    assert list(zip(data["tables"][line["x"]]["step"], line["y"])) == wanted
    faint = [line for panel in data["panels"] for line in panel["lines"] if line["faint"]]
    assert {line["name"] for line in faint} >= {"span corruption", "generator", "rtd", "loss"}
    by_step = {record["step"]: record for record in records}
    (terms,) = [line for line in faint if line["name"] == "generator"]
    for step, value in zip(data["tables"][terms["x"]]["step"], terms["y"]):
        assert value == pytest.approx(by_step[step]["train/generator"], rel=1e-5)
    names = {mark["name"]: mark["x"]["step"] for mark in data["marks"]}
    assert names == {"τ: span corruption": TAU, "resumed": KILLED}
    levels = [level["name"] for panel in data["panels"] for level in panel["levels"]]
    assert levels == ["span corruption: unigram entropy", "span corruption: bigram"]


def test_a_run_of_an_earlier_version_has_a_page(made, tmp_path, monkeypatch):
    monkeypatch.setattr("mixlm.analysis.run_page.curves.plotly_script", lambda: "plotly")
    old = tmp_path / "old"
    old.mkdir()
    for name in ("recipe.json", "metrics.jsonl"):
        shutil.copy(made / name, old / name)
    found = read(report(old).path)
    assert "keeps no journal" in found.text and "and not finished" in found.text


def test_a_run_that_has_logged_nothing_has_a_page(tmp_path):
    (tmp_path / "recipe.json").write_text('{"name": "\'dual\'"}')
    assert "No step is logged yet" in read(report(tmp_path).path).text


def test_at_most_so_many_evaluations_are_shown_and_the_last_is():
    seen = [(step, []) for step in range(1, 31)]
    for most in range(1, 9):
        steps = [step for step, _ in thinned(seen, most)]
        assert len(steps) == most and steps[-1] == 30 and steps == sorted(set(steps))
    assert thinned(seen[:3], 8) == seen[:3]


def test_options_of_studies_and_wrong_folders_are_refused(tmp_path, made):
    with pytest.raises(UserError, match="is one run: `partial` and `loss` are for"):
        report(made, partial=True)
    with pytest.raises(UserError, match="holds no run and no study"):
        report(tmp_path)
    with pytest.raises(UserError, match="A report is of a run or a study"):
        parse([])


def test_a_link_in_the_page_s_place_is_refused(made, tmp_path):
    copy = shutil.copytree(made, tmp_path / "copy")
    (copy / "report.html").unlink()
    (tmp_path / "kept").write_text("kept")
    (copy / "report.html").symlink_to(tmp_path / "kept")
    with pytest.raises(UserError, match="is a link"):
        report(copy)
    assert (tmp_path / "kept").read_text() == "kept"


def test_the_curves_of_cells_are_those_of_the_table(tmp_path):
    pytest.importorskip("plotly")
    rows = rows_of(alphas=(1.0, 0.5), epochs=(1, 64), seeds=(0, 1))
    cells = read_cells(written(tmp_path, rows, study_of(rows, claims=[])))
    found = Document()
    cell_curves(found, cells, ["validation/causal", "best:validation/causal"])
    (drawn,) = [block for block in found.blocks if isinstance(block, charts.Charts)]
    assert list(drawn.axes) == ["step", "tokens", "epochs", "flops", "seconds"]
    assert [panel.title for panel in drawn.panels] == [f"validation/causal, EPOCHS {n}" for n in (1, 64)]
    for epochs, panel in zip((1, 64), drawn.panels):
        means = {line.name: line for line in panel.lines if not line.faint}
        assert list(means) == ["ALPHA 1", "ALPHA 0.5"] and len(panel.lines) == 6
        own = [row for row in rows if (row["axis/ALPHA"], row["axis/EPOCHS"]) == (0.5, epochs)]
        for index, step in enumerate(means["ALPHA 0.5"].x["step"]):
            values = [row["validation/causal"] for row in own if row["step"] == step]
            assert means["ALPHA 0.5"].y[index] == pytest.approx(sum(values) / 2)
            assert means["ALPHA 0.5"].x["flops"][index] == next(row["flops"] for row in own if row["step"] == step)


def test_items_are_a_list_and_a_paragraph_is_none():
    document = Document([Text("- a `b`\n- <c>"), Text("- d\ne")])
    assert "<ul><li>a <code>b</code></li><li>&lt;c&gt;</li></ul>\n<p>- d\ne</p>" in document.html()
