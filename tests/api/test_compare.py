"""Runs side by side: each line is a run's whole history, and what there is not to draw is one sentence."""

import json

import pytest

import mixlm
from mixlm.api.run import Run
from mixlm.api.study import StudyRuns
from mixlm.errors import UserError


def logged(folder, steps, height, **macros) -> Run:
    """A run by its record alone: SpacTor's, with a switch after step 4."""
    folder.mkdir()
    made = mixlm.load_recipe("spactor.gin", TAU=4, TRAIN_STEPS=8, WARMUP_STEPS=0, MODEL_DIR=folder, **macros)
    stages = {True: "spactor", False: "span_corruption"}
    lines = [
        {"step": s, "flops": 10.0 * s, "loss": height - s, "stage": stages[s <= 4], "validation/x": height - s}
        for s in steps
    ]
    (folder / "recipe.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run(folder, made)


def drawn(figure):
    """(points by run, the places of the diamonds) of a figure's only panel."""
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines() if line.get_label()[0] != "_"}
    diamonds = [line.get_xydata()[0].tolist() for line in axes.get_lines() if line.get_marker() == "D"]
    return lines, diamonds


@pytest.fixture
def stem(tmp_path):
    return logged(tmp_path / "stem", range(1, 9), 20.0)


def test_a_line_is_the_record_and_a_diamond_where_the_recipe_switches(stem):
    lines, diamonds = drawn(mixlm.compare({"a": stem}, "validation/x", "flops"))
    assert lines == {"a": [[10.0 * s, 20.0 - s] for s in range(1, 9)]} and diamonds == [[40.0, 16.0]]


def test_a_fork_begins_with_the_line_of_its_stem(stem, tmp_path):
    fork = logged(tmp_path / "fork", range(6, 9), 30.0, INIT_FROM=f"{stem.folder}@5", INIT_OPTIMIZER=True)
    warm = logged(tmp_path / "warm", range(6, 9), 30.0, INIT_FROM=f"{stem.folder}@5")
    assert len(fork.metrics) == 3  # its own
    # The stem was made in Python as far as its folder tells: its record is read, not its recipe.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "recipe", property(lambda run: run._given or stem.recipe))
        lines, _ = drawn(mixlm.compare({"fork": fork, "warm": warm}, "loss"))
    assert lines["fork"] == [[s, 20.0 - s] for s in range(1, 6)] + [[s, 30.0 - s] for s in range(6, 9)]
    assert [step for step, _ in lines["warm"]] == [6.0, 7.0, 8.0]


def test_of_a_study_the_trained_cells_are_drawn(stem):
    class Study(StudyRuns):
        def __init__(self):
            pass

        @property
        def states(self):
            return {"a": "done", "b": "running", "c": "failed"}

        def __getitem__(self, cell):
            assert cell == "a"
            return stem

    assert list(drawn(mixlm.compare(Study(), "loss"))[0]) == ["a"]


@pytest.mark.parametrize(
    ("metric", "against", "said"),
    [
        ("validation/y", "step", r"^No run has logged 'validation/y'\. Did you mean 'validation/x'\?$"),
        ("loss", "flop", r"^Curves are drawn against step, .*, not 'flop'\. Did you mean 'flops'\?$"),
        ("stage", "step", r"^No run has logged 'stage'\."),
    ],
)
def test_what_there_is_not_is_named(stem, metric, against, said):
    with pytest.raises(UserError, match=said):
        mixlm.compare({"a": stem}, metric, against)
    with pytest.raises(UserError, match=r"^There is no run to draw"):
        mixlm.compare({}, "loss")
