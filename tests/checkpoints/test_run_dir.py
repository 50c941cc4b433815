"""A folder belongs to one run: another one is told what differs, and touches nothing."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.decoder_runs import recipe

from mixlm.checkpoints.load import check_held_out
from mixlm.checkpoints.run_dir import PLAIN_TEXT, RunDir
from mixlm.data.store.file_lock import exclusive
from mixlm.errors import UserError

MINE = {"seed": "0", "networks": "{'model': EncoderDecoder( emb_dim = 16 mlp_dim = 32 )}", "train_steps": "600"}


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below `path` with its bytes and the time of its last change."""
    return {
        str(file.relative_to(path)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in path.rglob("*")
        if file.is_file()
    }


@pytest.fixture
def claimed(tmp_path):
    folder = RunDir(tmp_path / "run")
    folder.acquire(MINE, "SEED = 0\n")
    yield folder
    folder.release()


def test_a_run_finds_its_own_folder_again(claimed):
    claimed.check(dict(reversed(MINE.items())))
    assert json.loads(claimed.recipe.read_text()) == MINE | PLAIN_TEXT
    assert claimed.config.read_text() == "SEED = 0\n"


def test_a_second_start_writes_its_own_config_and_leaves_no_scraps(claimed):
    claimed.acquire(MINE, "LOG_PERIOD = 3\n")
    assert claimed.config.read_text() == "LOG_PERIOD = 3\n"
    assert sorted(contents(claimed.path)) == [".lock", "config.gin", "recipe.json"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": "1"}, "seed 0 instead of 1"),
        ({"train_steps": "700"}, "train_steps 600 instead of 700"),
        ({"microbatches": "2"}, "microbatches none instead of 2"),
    ],
)
def test_another_recipes_folder_is_an_error_that_names_what_differs(claimed, change, named):
    before = contents(claimed.path)
    with pytest.raises(UserError) as caught:
        RunDir(claimed.path).check(MINE | change)
    assert str(claimed.path) in str(caught.value) and f"with {named};" in str(caught.value)
    assert contents(claimed.path) == before


def test_a_long_field_is_shown_where_it_differs(claimed):
    other = {"networks": MINE["networks"].replace("mlp_dim = 32", "mlp_dim = 64"), "seed": "5"}
    with pytest.raises(UserError) as caught:
        claimed.check(MINE | other)
    message = str(caught.value)
    assert "seed 0 instead of 5" in message and "32 )}" in message and "64 )}" in message
    assert "train_steps" not in message and "EncoderDecoder" not in message


def test_a_field_that_this_version_does_not_know_differs(claimed):
    claimed.acquire(MINE | {"clipping": "1.0"}, "")
    with pytest.raises(UserError, match=r"clipping 1\.0 instead of none"):
        claimed.check(MINE)


def test_a_folder_with_foreign_files_is_an_error(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"is no run's folder .*choose another MODEL_DIR"):
        RunDir(tmp_path).check(MINE)
    assert contents(tmp_path) == before


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is no run's folder"):
        RunDir(tmp_path / "file").check(MINE)
    assert (tmp_path / "file").read_text() == "mine"


def test_checking_makes_nothing(tmp_path):
    RunDir(tmp_path / "a" / "b").check(MINE)
    (tmp_path / "empty").mkdir()
    RunDir(tmp_path / "empty").check(MINE)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty"]


ODD = [
    "",
    "{",
    '{"seed": "0"',
    "null",
    "[]",
    '"run"',
    "\udcff",
    "{}",
    '{"seed": 0}',
    '{"seed": null}',
    '{"seed": ["0"]}',
    '{"seed": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"seed": ' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_a_damaged_recipe_is_an_error(claimed, text):
    claimed.recipe.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = contents(claimed.path)
    with pytest.raises(UserError, match=r"recipe\.json is damaged"):
        claimed.check(MINE)
    assert contents(claimed.path) == before


@pytest.mark.parametrize("name", ["recipe.json", "config.gin", "metrics.jsonl", ".lock", "evaluation", "checkpoints"])
def test_a_pipe_in_a_runs_folder_is_named_and_not_waited_for(claimed, name):
    claimed.release()
    (claimed.path / name).unlink(missing_ok=True)
    os.mkfifo(claimed.path / name)
    for ask in (claimed.read_identity, lambda: claimed.acquire(MINE, "")):
        if claimed.recipe.exists():
            with pytest.raises(UserError, match=f"{name} (is a pipe|must be a folder)"):
                ask()


def test_a_pipe_as_a_lock_is_no_lock(tmp_path):
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(UserError, match="no regular file"), exclusive(tmp_path / "lock", lambda: None):
        pass


LINE = '{{"step": {}, "stage": "s"}}\n'


@pytest.mark.parametrize(
    ("first", "last", "report", "refused"),
    [
        (1, 12, True, True),  # finished
        (1, 2, True, True),
        (1, 7, False, True),  # the save of step 6 has waited for that of step 3
        (1, 6, False, False),
        (5, 11, False, True),  # a fork that began after step 4
        (5, 10, False, False),
        (1, 0, True, False),  # its history was moved away
    ],
)
def test_a_run_whose_checkpoints_are_gone_is_not_trained_over(claimed, first, last, report, refused):
    (claimed.path / "metrics.jsonl").write_text("".join(LINE.format(step) for step in range(first, last + 1)))
    if report:
        claimed.curves.write_text("")
    before = contents(claimed.path)
    if refused:
        with pytest.raises(UserError, match=rf"was trained to step {last} .*another MODEL_DIR, or move its metrics"):
            claimed.check_untrained(3)
    else:
        claimed.check_untrained(3)
    assert contents(claimed.path) == before


def test_a_place_that_cannot_be_written_to_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        RunDir(tmp_path / "file" / "run").acquire(MINE, "")


def test_a_run_is_not_scored_on_text_that_an_older_split_trained_on(tmp_path, corpus):
    scored = recipe(corpus, tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(MINE | PLAIN_TEXT))
    check_held_out(scored)
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(MINE))
    with pytest.raises(UserError, match=r"begun by a version before 0\.6\.0, [^\n]*: add --gin\.HOLD_OUT_BY=name\.$"):
        check_held_out(scored)
    source = replace(scored.dataset.task.source, hold_out_by="name")
    check_held_out(replace(scored, dataset=replace(scored.dataset, task=replace(scored.dataset.task, source=source))))
