"""Values as gin reads them against annotations: golden pairs."""

import pytest

from mixlm.gin_config.program import Binding, Macro
from mixlm.gin_config.types import MISFIT, fitted


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, 3), (300.0, int, 300), (1e5, int, 100000), (0.5, int, MISFIT), (True, int, MISFIT), ("3", int, MISFIT),
        (None, int, MISFIT), (5, float, 5), (False, float, MISFIT), (1, bool, MISFIT), (True, bool, True),
        (None, int | None, None), (2.0, int | None, 2), (2.0, int | float, 2.0), (2, str | float, 2),
        ([1, 2.0], tuple[int, ...], (1, 2)), ([1, "a"], tuple[int, str], (1, "a")), ([1], tuple[int, str], MISFIT),
        (["a"], tuple[int, ...], MISFIT), ((1,), list[int], [1]), ([1], list, [1]), ([[1], [2]], tuple, ((1,), (2,))),
        ([], tuple[int, ...], ()), ((), tuple[int, int], MISFIT), (4, tuple[int, ...], MISFIT), ({}, tuple, MISFIT),
        ({"a": 1.0}, dict[str, int], {"a": 1}), ({1: 1}, dict[str, int], MISFIT), (4, dict[str, int], MISFIT),
        ([1.0], object, (1.0,)), ([2.0], tuple[int | float, ...], (2.0,)), ([1], str, MISFIT),
        ({"a": [1]}, dict, {"a": (1,)}),
    ],
)  # fmt: skip
def test_what_fits_an_annotation(value, hint, expected):
    result = fitted(value, hint, {})
    assert result is expected or (repr(result) == repr(expected) and result is not MISFIT)


def test_a_macro_within_a_value_stays_unless_its_value_must_change():
    macros = {"M": Binding((2.0,), "here"), "N": Binding((2,), "here")}
    value = {"m": Macro("M"), "n": Macro("N")}
    assert repr(fitted(value, dict[str, tuple[int, ...]], macros)) == "{'m': (2,), 'n': %N}"
