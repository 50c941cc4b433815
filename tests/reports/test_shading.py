"""Shaded tokens by one place: values as shades, marks, and text that is never markup."""

import re

from hypothesis import given
from hypothesis import strategies as st

from mixlm.reports.shading import ShadedToken, ShadedTokens

TOKENS = ShadedTokens(
    (
        (ShadedToken("The <b>"), ShadedToken(" cat", 0.0), ShadedToken(" dog", 1.0, marked=True, before=" cat")),
        (ShadedToken("x", 0.5), ShadedToken("y", 2.0)),
    ),
    "chance",
    "replaced",
    ("first", "<i>"),
)


def test_text_has_values_and_what_stood_there_before():
    lines = str(TOKENS).splitlines()
    assert lines[1:] == ["first  The <b> [cat 0.00] [cat -> dog 1.00]", "<i>  [x 0.50][y 2.00]"]


def shades(tokens: ShadedTokens) -> dict[str, int]:
    """The red of each word's background, 255 for white."""
    found = re.findall(r"background:rgb\((\d+),\d+,\d+\)[^>]*>(?:<s>\w+</s> )?([^<]+)<", tokens._repr_html_())
    return {word: int(red) for red, word in found}


def test_shades_rise_with_the_value_and_text_is_no_markup():
    text, shade = TOKENS._repr_html_(), shades(TOKENS)
    assert 255 == shade["cat"] > shade["x"] > shade["dog"] > shade["y"] == 86
    assert "<s>cat</s> dog" in text and text.count("border-bottom") == 2  # the legend's one among them
    assert "&lt;b&gt;" in text and "<b>" not in text and "<i>" not in text


@given(st.lists(st.integers(0, 100), min_size=2, max_size=8, unique=True), st.integers(-50, 50), st.integers(1, 9))
def test_shades_are_those_of_the_values_own_range_which_the_legend_names(values, shift, factor):
    def shaded(figures):
        return ShadedTokens(
            (tuple(ShadedToken(f"w{n}", float(each)) for n, each in enumerate(figures)),), "entropy, nats"
        )

    tokens = shaded([shift + factor * value for value in values])
    moved, plain = shades(tokens), shades(shaded(values))
    assert {moved[f"w{n}"] for n, value in enumerate(values) if value == min(values)} == {255}
    assert {moved[f"w{n}"] for n, value in enumerate(values) if value == max(values)} == {86}
    assert all(moved[f"w{n}"] == plain[f"w{n}"] for n in range(len(values)))
    legend = tokens._repr_html_().partition("</p>")[0]
    assert "entropy, nats, from the lowest here to the highest" in legend
    assert all(f">{tokens.ends[end]:.3g}<" in legend for end in (0, 1))


def test_without_a_range_nothing_is_shaded_and_no_figure_that_is_not_finite_makes_one():
    assert set(shades(ShadedTokens(((ShadedToken("a", 2.0), ShadedToken("b", 2.0)),), "")).values()) == {255}
    odd = ShadedTokens(((ShadedToken("a", 1.0), ShadedToken("b", 2.0), ShadedToken("c", float("nan"))),), "")
    assert odd.ends == (1.0, 2.0) and shades(odd)["c"] == 255
    assert ShadedTokens(((ShadedToken("a"),),), "").ends == (0.0, 0.0)
