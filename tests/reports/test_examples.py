"""Examples as lines and as HTML, by one place."""

from mixlm.reports.examples import Examples, ExampleText, Fill, Piece, as_html

MASKED = ExampleText(
    "mask",
    1,
    (Piece("The <old>"), Piece(" <mask>", "masked"), Piece(" sat"), Piece(" on", "replaced", " in")),
    (Piece(" cat", "scored"), Piece(" in", "scored")),
    (Piece(" cat", "right"), Piece(" at", "wrong")),
)
SPANS = ExampleText(
    "spans", 2, (Piece("The"), Piece(" <extra_id_0>", "sentinel")), (), fills=(Fill("<extra_id_0>", "cat", ""),)
)


def test_lines_have_inputs_targets_and_predictions():
    assert MASKED.lines == ["inputs   The <old> <mask> sat [in -> on]", "targets  cat in", "model    cat at"]
    assert SPANS.lines == ["inputs   The <extra_id_0>", "<extra_id_0>  true: cat  |  model: (nothing)"]
    assert Examples((MASKED, SPANS)).lines[0] == "examples of mask"
    assert str(Examples((MASKED, SPANS))).count("examples of") == 2
    assert Examples(()).lines == []


def test_html_colours_each_kind_and_escapes_text():
    text = as_html([MASKED, SPANS])
    for kind, count in {"masked": 2, "replaced": 2, "scored": 3, "right": 2, "wrong": 3, "sentinel": 2}.items():
        assert text.count(f'title="{kind}"') == count  # the legend's one among them
    assert "&lt;mask&gt;" in text and "<mask>" not in text and "<old>" not in text
    assert "<s>in</s>" in text and "(nothing)" in text
    assert "<style" not in text and "<script" not in text
