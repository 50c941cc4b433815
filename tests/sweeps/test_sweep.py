"""A study as it is read: its cells are variants of one configuration, and a mistake in any of them is one sentence."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.cli.sweep import parse, split_values
from mixlm.errors import UserError
from mixlm.gin_config.flags import Flags
from mixlm.sweeps.collect import collect
from mixlm.sweeps.commands import command_lines, without_places
from mixlm.sweeps.forks import Fork
from mixlm.sweeps.jobs import run_jobs
from mixlm.sweeps.run import run_cells
from mixlm.sweeps.sweep import Texts, read_sweep

STUDY = """
from __gin__ import dynamic_registration

from mixlm import losses
from mixlm.sweeps import study

include 'mile.gin'

BUDGET = 1000
REPEATS = 1
study.Study.name = "repeats"
study.Study.metrics = {"validation/causal": "min"}
study.Grid.axes = {"GAMMA": (0.5, 2), "REPEATS": (1, 4)}
study.Grid.derived = {"UNIQUE_TOKENS": "BUDGET // REPEATS"}
study.Grid.arms = {"": {}, "focal": {"TOKEN_LOSS": @losses.Focal(), "REPEATS": 2}}
study.Grid.seeds = (0, 1)
study.Study.small = {"axes": {"GAMMA": (1.0,)}, "seeds": (3,), "TRAIN_STEPS": 7}
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a study file whose text this is, with bindings of the command line."""
    monkeypatch.chdir(tmp_path)

    def found(text=STUDY, *bindings, axes=None, seeds=None):
        (tmp_path / "a.gin").write_text(text)
        return read_sweep(Flags(gin_files=("a.gin",), bindings=bindings), axes, seeds)

    return found


def test_each_cell_is_a_variant_of_the_recipe(read):
    sweep = read()
    recipes = sweep.check()
    assert len(recipes) == len(sweep.cells) == 2 * 2 * 2 + 2 * 2
    losses = {name: recipe.curriculum.stages[0].objective.loss for name, recipe in recipes.items()}
    assert [type(losses[name]).__name__ for name in list(losses)[:8:4]] == ["MiLe", "MiLe"]
    focal = recipes["focal,GAMMA=2,REPEATS=2,seed=1"]
    # A reference is built anew in each cell, so that it sees the cell's macros.
    assert type(losses["focal,GAMMA=2,REPEATS=2,seed=1"]).__name__ == "Focal"
    assert (
        losses["focal,GAMMA=2,REPEATS=2,seed=1"].gamma == 2 and losses["focal,GAMMA=0.5,REPEATS=2,seed=0"].gamma == 0.5
    )
    assert focal.dataset.unique_tokens == 500 and focal.seed == 1
    assert len({recipe.folder for recipe in recipes.values()}) == len(recipes)
    assert "sweeps" not in focal.config and "%GAMMA" in focal.config


def test_a_small_study_has_what_its_file_says_and_a_folder_of_its_own(read):
    sweep = read(STUDY, "SMALL = True")
    assert [cell.name for cell in sweep.cells] == ["GAMMA=1.0,seed=3", "focal,GAMMA=1.0,seed=3"]
    assert all(recipe.train_steps == 7 for recipe in sweep.check().values())
    assert sweep.folder.path.name == "repeats-small"


def test_axes_of_the_command_line_join_those_of_the_file(read):
    sweep = read(
        axes={"REPEATS": Texts(["8"]), "TOKEN_LOSS": Texts(["@losses.MiLe()", "@losses.CrossEntropy()"])}, seeds=(4,)
    )
    found = {(cell.axes["REPEATS"], repr(cell.axes["TOKEN_LOSS"])) for cell in sweep.cells if not cell.arm}
    assert found == {(8, "@token_losses.MiLe()"), (8, "@token_losses.CrossEntropy()")}
    Path("printed.gin").write_text(sweep.variants.text)
    printed = read_sweep(Flags(gin_files=("printed.gin",)))
    assert [cell.name for cell in printed.cells] == [cell.name for cell in sweep.cells]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"GAMMA": (0.5, 2)', '"GAMA": (0.5, 2)', "The axis GAMA is no macro of the gin files. Did you mean 'GAMMA'?"),
        (
            '"GAMMA": (0.5, 2)',
            '"GAMMA": (0.5, "x")',
            r"GAMMA \(Cell GAMMA=x,REPEATS=1,seed=0, read by .*must be a number",
        ),
        ('"GAMMA": (0.5, 2)', '"GAMMA": 3', "Grid.axes .* must be a dict of text to a tuple"),
        ('"GAMMA": (0.5, 2)', '"TEMPERATURE": (0.5, 2)', "The axis TEMPERATURE is no macro"),
        (
            '"GAMMA": (0.5, 2)',
            '"EPOCHS": (1, 2)',
            "Cell EPOCHS=1,REPEATS=1,seed=0: TRAIN_STEPS = 1000 and EPOCHS = 1 both say",
        ),
        ('"GAMMA": (0.5, 2)', '"MASK_RATE": (0.5, 2)', "The axis MASK_RATE is no macro"),
        (
            '"GAMMA": (0.5, 2)',
            '"Llama.num_heads": (2, "y")',
            "Llama.num_heads .Cell Llama.num_heads=y,.*must be a whole number",
        ),
        ('"GAMMA": (0.5, 2)', '"UNIQUE_TOKENS": (5,)', "UNIQUE_TOKENS is an axis and derived from others as well"),
        ("BUDGET // REPEATS", "BUDGET // REPEATS + REPEAT", "no macro 'REPEAT'. Did you mean 'REPEATS'"),
        ("BUDGET // REPEATS", "BUDGET // (REPEATS - 1)", "UNIQUE_TOKENS = .* divides by zero"),
        ("BUDGET // REPEATS", "TOKEN_LOSS + BUDGET // REPEATS", "TOKEN_LOSS is @.*, and no number"),
        (
            '"TOKEN_LOSS": @losses.Focal()',
            '"TOKEN_LOS": 1',
            "the macro TOKEN_LOS is no macro .* Did you mean 'TOKEN_LOSS'",
        ),
        ('"min"', '"least"', "is 'min' or 'max', not 'least'"),
        ('"repeats"', '"a/b"', "names a folder: give it a plain name"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence(read, old, new, sentence):
    assert old in STUDY
    with pytest.raises(UserError, match=sentence):
        read(STUDY.replace(old, new)).check()


def test_a_folder_of_another_study_or_of_anything_else_is_refused(read, tmp_path):
    sweep = read()
    sweep.folder.write(sweep.content)
    sweep.check()
    read(STUDY.replace("(0, 1)", "(0, 1, 2)")).check()  # a study may grow
    with pytest.raises(UserError, match="holds another study, with axes GAMMA, REPEATS instead of GAMMA"):
        read(STUDY.replace(', "REPEATS": (1, 4)', ""), f"STUDY_FOLDER = '{sweep.folder}'").check()
    with pytest.raises(UserError, match="name 'repeats' instead of 'other'"):
        read(STUDY.replace('"repeats"', '"other"'), f"STUDY_FOLDER = '{sweep.folder}'").check()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is no study's folder"):
        read(STUDY, "STUDY_FOLDER = 'full'").check()
    with pytest.raises(UserError, match="MODEL_DIR is each cell's own"):
        read(STUDY, "MODEL_DIR = 'runs/a'")


def test_a_folder_without_runs_is_a_table_of_missing_cells(read):
    sweep = read()
    sweep.folder.write(sweep.content)
    sweep.folder.note("GAMMA=2,REPEATS=4,seed=1", error="It broke.", version="0.1")
    table = collect(sweep.folder)
    assert len(table) == len(sweep.cells)
    failed = table["cell"].index("GAMMA=2,REPEATS=4,seed=1")
    assert table["status"] == ["failed" if row == failed else "missing" for row in range(len(table))]
    assert (
        table["axis/REPEATS"][failed] == 4
        and table["error"][failed] == "It broke."
        and table["version"][failed] == "0.1"
    )
    assert json.loads(sweep.folder.study.read_text())["arms"] == ["", "focal"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [({"MINIMAL_PAIRS": "blimp"}, "Evaluation 'end': .*blimp"), ({"MODES": "casual"}, "Evaluation 'end': .*'causal'")],
)
@pytest.mark.parametrize("start", [run_cells, lambda sweep: run_jobs(sweep, [], 2)])
def test_an_evaluation_that_cannot_be_made_ends_a_sweep_before_any_cell_is_trained(read, asked, sentence, start):
    sweep = read(STUDY + f"study.Study.evaluations = {{'end': {asked!r}}}\n")
    with pytest.raises(UserError, match=sentence):
        start(sweep)
    assert not sweep.folder.path.exists()


@pytest.mark.parametrize("start", [run_cells, lambda sweep: run_jobs(sweep, [], 2)])
def test_a_beginning_that_is_not_there_ends_a_sweep_before_any_cell_is_trained(read, start):
    sweep = read(STUDY.replace('{"UNIQUE_TOKENS', '{"INIT_FROM": "f\'runs/{REPEATS},{SEED}\'", "UNIQUE_TOKENS'))
    with pytest.raises(UserError, match=r"^Cell GAMMA=0\.5,REPEATS=1,seed=0: INIT_FROM = 'runs/1,0' holds no run"):
        start(sweep)
    assert not sweep.folder.path.exists()


def test_forks_leave_the_longest_stem_of_their_own_seed(read):
    text = STUDY.replace("'mile.gin'", "'spactor.gin'").replace(
        '"GAMMA": (0.5, 2), "REPEATS": (1, 4)', '"TAU": (0, 10, 40, 30)'
    )
    text = text.replace('study.Grid.derived = {"UNIQUE_TOKENS": "BUDGET // REPEATS"}', 'study.Grid.forks = "TAU"')
    text = "\n".join(
        line for line in text.splitlines() if "arms" not in line and "BUDGET" not in line and "REPEATS" not in line
    )
    sweep = read(text, "TRAIN_STEPS = 60")
    assert sweep.forks == {
        f"TAU={step},seed={seed}": Fork(f"TAU=40,seed={seed}", step) for seed in (0, 1) for step in (10, 30)
    }
    with pytest.raises(UserError, match=r"Grid.forks = 'TAO' is no axis\. Did you mean 'TAU'"):
        read(text.replace('forks = "TAU"', 'forks = "TAO"'))
    recipes = sweep.check()
    assert recipes["TAU=40,seed=1"].keep_period == recipes["TAU=40,seed=1"].checkpoint_period == 10
    assert recipes["TAU=30,seed=1"].init_from == f"{recipes['TAU=40,seed=1'].folder}@30"
    assert recipes["TAU=30,seed=1"].init_optimizer and recipes["TAU=0,seed=1"].init_from is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["1", "-2.5", "(1, 2)", "'a,b'", '{"x": [1, 2]}', "@a.B()"]), min_size=1))
def test_values_are_split_at_commas_between_them(values):
    assert split_values(",".join(values)) == values


def test_a_command_of_a_cell_says_nothing_of_where_cells_run(read):
    argv = [
        "--gin_file=a.gin",
        "--jobs",
        "4",
        "--slurm=local",
        "--sweep.GAMMA=1",
        "--together=2",
        "--slurm_time=5",
        "--print_commands",
    ]
    assert without_places(argv) == ["--gin_file=a.gin", "--sweep.GAMMA=1"]
    sweep = read()
    lines = command_lines(sweep, argv)
    assert len(lines) == len(sweep.cells)
    assert lines[1] == "mixlm sweep --gin_file=a.gin --sweep.GAMMA=1 --cell=GAMMA=0.5,REPEATS=1,seed=1"
    given, axes, _ = parse(lines[1].split()[2:])
    assert sweep.cell(given.cell) is sweep.cells[1] and axes == {"GAMMA": ["1"]}


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--sweep.A="], "needs values"),
        (["--sweep.A=1", "--sweep.A=2"], "is given twice"),
        (["--seeds=x"], "no number of seeds"),
        (["--seeds=0"], "no number of seeds"),
        (["--job=2"], "Did you mean '--jobs'"),
        (["--jobs=0"], "at least 1"),
        (["--dry_run", "--status"], "two ways to go on"),
        (["--how=masked"], "is a flag of `mixlm decode` alone"),
    ],
)
def test_a_wrong_flag_is_named(argv, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(["--gin_file=mile.gin", *argv])


RECIPES = """
from __gin__ import dynamic_registration

from mixlm.sweeps import study

TRAIN_STEPS = 5
study.Study.name = "starts"
study.Grid.recipes = {"a": ("mile.gin",), "b": ("spactor.gin", "optim/adafactor_constant.gin")}
study.Grid.arms = {"a": {"GAMMA": 2.0}}
study.Grid.stems = {"afresh": {}, "begun": {"a": ("mile.gin",), "b": ("spactor.gin",)}}
study.Grid.axes = {"INIT_FROM": ("afresh", "begun")}
study.Grid.seeds = (3, 4)
study.Study.small = {"TRAIN_STEPS": 2}
"""


def test_arms_may_be_recipes_and_begin_from_stems_that_are_as_their_files_say(read):
    sweep = read(RECIPES, "BATCH_SIZE = 6")
    recipes, stems = sweep.check(), ["stem,begun,a", "stem,begun,b"]
    assert list(recipes)[:2] == stems and sweep.content["stems"] == stems
    assert [cell["cell"] for cell in sweep.content["cells"]] == list(recipes)[2:]
    assert [(recipes[name].train_steps, recipes[name].batch_size, recipes[name].seed) for name in stems] == [
        (1000, 16, 3),
        (1200, 32, 3),
    ]
    for name, recipe in list(recipes.items())[2:]:
        arm, begins, seed = name.split(",")
        assert (recipe.train_steps, recipe.batch_size, f"seed={recipe.seed}") == (5, 6, seed)
        assert ("generator" in recipe.networks) == (arm == "b")
        stem = None if begins.endswith("afresh") else str(sweep.folder.run(f"stem,begun,{arm}").path)
        assert recipe.init_from == stem and sweep.forks.get(name) == (stem and Fork(f"stem,begun,{arm}", None))
    assert recipes["a,INIT_FROM=begun,seed=4"].curriculum.stages[0].objective.loss.gamma == 2.0
    small = read(RECIPES, "SMALL = True").check()
    assert {recipe.train_steps for recipe in small.values()} == {2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({'"a": {"GAMMA"': '"c": {"GAMMA"'}, r"^The arm 'c' has no gin files in Grid\.recipes\."),
        ({'"begun": {"a"': '"begun": {"c"'}, r"^The stem 'begun' is of an arm 'c', which there is not\."),
        ({'"GAMMA": 2.0': '"TAU": 2'}, r"^The arm 'a': the macro TAU is no macro of the gin files\."),
    ],
)
def test_a_recipe_or_a_stem_that_is_not_there_is_one_sentence(read, change, words):
    ((old, new),) = change.items()
    with pytest.raises(UserError, match=words):
        read(RECIPES.replace(old, new)).check()
