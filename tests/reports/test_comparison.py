"""Several runs in one picture: lines are the records' values, and a switch lies on its own line."""

import numpy as np

from mixlm.reports.comparison import comparison_figure

RUNS = {
    "a": [{"step": s, "flops": 10.0 * s, "validation/x": 9.0 - s, "stage": "one"} for s in range(1, 7)],
    "b": [{"step": s, "flops": 20.0 * s, "validation/x": 8.0 - s, "validation/y": 1.0} for s in range(1, 4)],
}


def lines_of(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines() if line.get_label()[0] != "_"}


def test_a_line_is_a_runs_values_and_a_diamond_its_switch():
    drawn = comparison_figure(RUNS, ("validation/x", "validation/y"), ("step", "flops"), {"a": [3]})
    (step, flops), (low, _) = np.reshape(drawn.axes, (2, 2))
    np.testing.assert_array_equal(lines_of(step)["a"], [(s, 9.0 - s) for s in range(1, 7)])
    np.testing.assert_array_equal(lines_of(flops)["b"], [(20.0 * s, 8.0 - s) for s in range(1, 4)])
    assert list(lines_of(low)) == ["b"]
    for axes, place in ((step, 3.0), (flops, 30.0)):
        (diamond,) = [line for line in axes.get_lines() if line.get_marker() == "D"]
        np.testing.assert_array_equal(diamond.get_xydata(), [(place, 6.0)])
        assert diamond.get_color() == next(line for line in axes.get_lines() if line.get_label() == "a").get_color()
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["a", "b", "switch of objective"]
