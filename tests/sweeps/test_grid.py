"""Cells of a grid: every combination once, each with a name of its own and the macros that follow from it."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.sweeps.cells import NAME_LENGTH, cells_of
from mixlm.sweeps.formula import computed, names_in
from mixlm.sweeps.study import Grid

# Numbers that print alike, texts that are no names of files, and what is long.
VALUES = st.sampled_from(
    (0, 1, 1.0, 0.5, -2, 1e-5, True, None, "", "..", "a/b", "a b", "A", ".a", "ä" * 99, (1, 2), (1, 3))
)
AXES = st.dictionaries(
    st.sampled_from(("ALPHA", "BETA", "Class.name")),
    st.lists(VALUES, min_size=1, max_size=4, unique_by=repr).map(tuple),
    max_size=3,
)


@settings(max_examples=40, deadline=None)
@given(AXES, st.sets(st.integers(0, 99), min_size=1, max_size=3).map(tuple))
def test_every_combination_is_a_cell_with_a_name_of_its_own(axes, seeds):
    cells = cells_of(Grid(axes, seeds=seeds), {}.__getitem__)
    combinations = [(*values, seed) for values in itertools.product(*axes.values()) for seed in seeds]
    assert [repr((*cell.axes.values(), cell.seed)) for cell in cells] == [repr(each) for each in combinations]
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    assert all(len(name) <= NAME_LENGTH + 7 and "/" not in name and name[0] != "." for name in names)


def test_an_arm_stands_at_the_value_of_an_axis_that_it_gives():
    grid = Grid({"A": (1, 2), "B": (3, 4)}, arms={"": {}, "pinned": {"A": 7, "C": 5}})
    found = [(cell.arm, cell.axes["A"], cell.axes["B"], cell.values.get("C")) for cell in cells_of(grid, {}.get)]
    plain = [("", a, b, None) for a in (1, 2) for b in (3, 4)]
    assert found == [*plain, ("pinned", 7, 3, 5), ("pinned", 7, 4, 5)]


def test_derived_macros_follow_from_axes_files_and_each_other():
    grid = Grid({"REPEATS": (1, 4)}, {"UNIQUE": "BUDGET // REPEATS", "HALF": "UNIQUE / 2 + LENGTHS['targets']"})
    cells = cells_of(grid, {"BUDGET": 1000, "LENGTHS": {"targets": 8}}.__getitem__)
    assert [(cell.values["UNIQUE"], cell.values["HALF"]) for cell in cells] == [(1000, 508.0), (250, 133.0)]


def test_a_text_follows_from_macros_and_from_the_seed_of_its_cell():
    grid = Grid(
        {"A": (0, 0.5)}, {"RUN": "f'{WHERE}/A={A},half={A / 2}{{}},seed={SEED}'", "NEXT": "SEED + 1"}, seeds=(3, 5)
    )
    cells = cells_of(grid, {"WHERE": "runs", "SEED": 99}.__getitem__)
    expected = [(f"runs/A={a},half={a / 2}{{}},seed={seed}", seed + 1) for a in (0, 0.5) for seed in (3, 5)]
    assert [(cell.values["RUN"], cell.values["NEXT"]) for cell in cells] == expected
    assert names_in(grid.derived["RUN"]) == {"WHERE", "A", "SEED"}


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.sampled_from(["A", "B", "2", "0.5"]),
        lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(
            lambda parts: f"({' '.join(parts)})"
        ),
        max_leaves=8,
    )
)
def test_a_formula_gives_what_python_gives(formula):
    values = {"A": 7, "B": -3}
    assert names_in(formula) <= values.keys()
    try:
        expected = eval(formula, {}, values)
    except ZeroDivisionError:
        with pytest.raises(UserError, match="divides by zero"):
            computed(formula, values.__getitem__, "X")
    else:
        assert computed(formula, values.__getitem__, "X") == expected


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os')",
        "A.real",
        "[1]",
        "'a' * 3",
        "2 ** 9999",
        "A if A else 0",
        "lambda: 1",
        "(",
        "sum(A)",
        "True",
        "f'{A!r}'",
        "f'{NONE}'",
        "f'{A:3}'",
    ],
)
def test_what_is_no_arithmetic_is_refused(formula):
    with pytest.raises(UserError, match=r"^X = "):
        computed(formula, {"A": 7, "NONE": None}.__getitem__, "X")


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ({"axes": {"A": ()}}, "has no values"),
        ({"axes": {"A": (1, 1)}}, "has a value twice"),
        ({"axes": {"A": (1,)}, "derived": {"A": "2"}}, "is an axis and derived"),
        ({"arms": {"x": {"A": 1}}, "derived": {"A": "2"}}, "which is derived from others"),
        ({"axes": {"SEED": (1, 2)}}, "SEED is no axis: seeds are Grid.seeds"),
        ({"seeds": ()}, "must be one seed or more"),
    ],
)
def test_axes_that_contradict_each_other_are_refused(grid, sentence):
    with pytest.raises(UserError, match=sentence):
        Grid(**grid)
