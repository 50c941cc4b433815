"""Each evaluation has a folder of its own, a link leads to the newest, and no other link is written through."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from mixlm.errors import UserError
from mixlm.evaluation.folders import evaluation_folder, folder_name, latest_evaluation, link_latest
from mixlm.evaluation.pair_files import Paradigm
from mixlm.evaluation.run import Prepared, Scoring, _folder_name
from mixlm.evaluation.tables import write_json


def evaluated(run, name, *files):
    with evaluation_folder(run, name) as folder:
        for file in files:
            (folder / file).write_text(name)
    assert link_latest(run, name) is None


def held(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_evaluations_do_not_mix_and_the_newest_is_linked(tmp_path):
    evaluated(tmp_path, "a", "text.json", "minimal_pairs.json")
    evaluated(tmp_path, "b", "text.json")
    assert held(tmp_path / "evaluation" / "a") == {"text.json": "a", "minimal_pairs.json": "a"}
    assert held(latest_evaluation(tmp_path)) == {"text.json": "b"}
    assert os.readlink(tmp_path / "evaluation" / "latest") == "b"
    # The same one once more holds what is new alone.
    evaluated(tmp_path, "a", "text.json")
    assert held(latest_evaluation(tmp_path)) == {"text.json": "a"}
    assert sorted(path.name for path in (tmp_path / "evaluation").iterdir()) == ["a", "b", "latest"]


def test_an_evaluation_that_fails_changes_nothing(tmp_path):
    evaluated(tmp_path, "a", "text.json")
    full = pytest.raises(UserError, match="evaluation/a cannot be written: No space left")
    with full, evaluation_folder(tmp_path, "a") as folder:
        (folder / "text.json").write_text("half")
        raise OSError(28, "No space left on device")
    named = pytest.raises(UserError, match=r"evaluation/a/text\.json/text\.json cannot be written")
    with named, evaluation_folder(tmp_path, "a") as folder:
        (folder / "text.json").write_text("half")
        write_json(folder / "text.json" / "text.json", {})
    assert held(latest_evaluation(tmp_path)) == {"text.json": "a"}
    assert sorted(path.name for path in (tmp_path / "evaluation").iterdir()) == ["a", "latest"]


@pytest.mark.parametrize("place", ["evaluation", "evaluation/a"])
def test_no_link_is_written_through(tmp_path, place):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run / place).parent.mkdir(parents=True)
    (run / place).symlink_to(elsewhere)
    with pytest.raises(UserError, match="is a link"):
        evaluated(run, "a", "text.json")
    assert held(elsewhere) == {} and (run / place).is_symlink()


def test_a_link_to_elsewhere_is_replaced_and_never_read(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "text.json").write_text("secret")
    (run / "evaluation").mkdir(parents=True)
    for target in ("../../elsewhere", str(elsewhere), "b", ".", ".."):
        (run / "evaluation" / "latest").symlink_to(target)
        with pytest.raises(UserError, match=r"leads to no evaluation of this run|which is not in it"):
            latest_evaluation(run)
        evaluated(run, "a", "text.json")
        assert held(elsewhere) == {"text.json": "secret"} and latest_evaluation(run).name == "a"
        (run / "evaluation" / "latest").unlink()
    with pytest.raises(UserError, match="no evaluation yet"):
        latest_evaluation(run)


def test_a_file_system_without_links_keeps_the_evaluation(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    with evaluation_folder(tmp_path, "a") as folder:
        (folder / "text.json").write_text("a")
    assert link_latest(tmp_path, "a") == "Operation not permitted"
    assert held(tmp_path / "evaluation" / "a") == {"text.json": "a"}


def test_the_name_says_what_was_scored_and_differs_with_it():
    assert folder_name(400, 64, None).startswith("step_400-64_rows-")
    assert folder_name(7, 3, "my/BLiMP data:\udc80/", 1).startswith("step_7-3_rows-BLiMP_data_-")
    assert len(os.fsencode(folder_name(7, 3, "\u4e2d" * 300))) < 255
    settings = [Scoring(), Scoring(), Scoring(modes="causal"), Scoring(samples=4), Scoring("x"), Scoring("x", pairs=2)]
    names = [folder_name(7, 3, each.minimal_pairs, "data", each) for each in settings]
    assert names[0] == names[1] and len(set(names)) == 5
    assert {folder_name(7, 3, None, "other", Scoring()), folder_name(8, 3, None, "data", Scoring())}.isdisjoint(names)


def test_other_pairs_of_the_same_place_are_another_evaluation():
    def name(*pairs: tuple[str, str]) -> str:
        given = object.__new__(Prepared)  # what its name depends on, without a network
        facts = {"step": 7, "data": "data", "modes": {"causal": None}, "scoring": Scoring("pairs")}
        facts |= {"recipe": SimpleNamespace(before=0), "text": SimpleNamespace(rows=np.arange(3))}
        vars(given).update(facts, paradigms=(Paradigm("a", "f", "t", pairs),))
        return _folder_name(given)

    assert name(("a", "b")) == name(("a", "b")) != name(("a", "c"))
