"""Laws of the tiers: the quick one keeps a case of every function that `support.tiers` names."""

import ast

import pytest
from support.places import TESTS
from support.tiers import QUICK_CASES, is_exhaustive


@pytest.mark.parametrize("name", QUICK_CASES)
def test_a_function_with_quick_cases_exists(name):
    path, function = name.split("::")
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_named_cases_are_quick_and_the_others_are_not():
    name, (case, *_) = next(iter(QUICK_CASES.items()))
    assert not is_exhaustive(f"tests/{name}[{case}]") and is_exhaustive(f"tests/{name}[another]")
    assert not is_exhaustive("tests/test_tiers.py::test_other[another]")
