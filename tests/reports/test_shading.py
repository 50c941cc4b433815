"""Shaded tokens by one place: values as shades, marks, and text that is never markup."""

import re

from mixlm.reports.shading import ShadedToken, ShadedTokens, range_of

TOKENS = ShadedTokens(
    (
        (ShadedToken("The <b>"), ShadedToken(" cat", 0.0), ShadedToken(" dog", 1.0, marked=True, before=" cat")),
        (ShadedToken("x", 0.5), ShadedToken("y", 2.0)),
    ),
    "chance",
    0.0,
    1.0,
    "replaced",
    ("first", "<i>"),
)


def test_text_has_values_and_what_stood_there_before():
    lines = str(TOKENS).splitlines()
    assert lines[1:] == ["first  The <b> [cat 0.00] [cat -> dog 1.00]", "<i>  [x 0.50][y 2.00]"]


def test_shades_rise_with_the_value_and_stop_at_the_ends():
    text = TOKENS._repr_html_()
    shade = {
        word: re.search(rf'background:rgb\((\d+),\d+,\d+\)[^>]*>(?:<s>\w+</s> )?{word}<', text)[1] for word in
        ("cat", "dog", "x", "y")
    }  # fmt: skip
    assert shade["cat"] == "255" and int(shade["dog"]) < int(shade["x"]) < 255 and shade["y"] == shade["dog"]
    assert "<s>cat</s> dog" in text and text.count("border-bottom") == 2  # the legend's one among them
    assert "&lt;b&gt;" in text and "<b>" not in text and "<i>" not in text


def test_a_range_holds_all_values():
    assert range_of(TOKENS.rows) == (0.0, 2.0) and range_of([]) == (0.0, 1.0)
