import struct
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from mixlm.reports.curves import draw, series, smooth
from mixlm.reports.panels import PALETTE, levels, panels, styles


def some_records(count: int, tau: int) -> list[dict]:
    records = []
    for index in range(count):
        step = 10 * (index + 1)
        record = {"step": step, "stage": "spactor" if step <= tau else "span_corruption", "flops": 1e9 * step}
        record["train/span_corruption"] = 3 + 5 * np.exp(-step / (3 * count))
        record["loss"] = record["train/span_corruption"]
        if step <= tau:
            record |= {"train/generator": 4.0, "train/rtd": 0.3, "loss": record["loss"] + 4.3}
        if index % 20 == 1:
            record["validation/span_corruption"] = 3.5
        records.append(record)
    return records


def colours(path) -> set[str]:
    """The colours of whole pixels in the picture."""
    pixels = (np.unique(imread(path)[:, :, :3].reshape(-1, 3), axis=0) * 255).round().astype(int)
    return {"#{:02X}{:02X}{:02X}".format(*pixel) for pixel in pixels}


@pytest.mark.parametrize("count", [1, 3, 400, 30_000])
def test_a_run_of_any_length_is_drawn(tmp_path, count):
    path = tmp_path / "curves.png"
    records = some_records(count, tau=5 * count)
    records[-1] |= {"yardstick/span_corruption/unigram": 6.0, "yardstick/generator/unigram": 6.01}
    draw(records, path, [(5 * count, "span_corruption")], "title")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert width > 1200 and height > 500
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]
    assert "#000000" in colours(path)


def test_every_term_has_its_colour(tmp_path):
    path = tmp_path / "curves.png"
    draw(some_records(100, tau=500), path, [(500, "span_corruption")])
    assert set(PALETTE[:3]) <= colours(path)
    assert not set(PALETTE[3:]) & colours(path)


@pytest.mark.parametrize("against", [("flops",), ("step",), ("step", "flops", "tokens", "epoch")])
def test_a_run_is_drawn_against_what_is_asked_for(tmp_path, against):
    records = [record | {"tokens": 8 * record["step"], "epoch": record["step"] / 9} for record in some_records(50, 200)]
    path = tmp_path / "curves.png"
    draw(records, path, [(200, "span_corruption")], against=against)
    width, _ = struct.unpack(">II", path.read_bytes()[16:24])
    assert width == 300 + 600 * len(against)
    assert set(PALETTE[:3]) <= colours(path)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"step": 1}],
        [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}],
        [{"step": 1, "loss": 1.0}, {"step": 2, "train/rtd": None}, {"step": 3, "loss": "?", "flops": 1.0}],
        [{"step": step, "loss": 2.0} for step in range(5)],
    ],
)
def test_missing_keys_leave_gaps_and_no_warnings(tmp_path, records):
    draw(records, tmp_path / "curves.png", [(2, "next")])
    assert (tmp_path / "curves.png").exists()


def test_a_series_is_where_both_are_numbers():
    records = [{"step": 1, "a": 2.0}, {"step": 2}, {"a": 3.0}, {"step": 4, "a": float("inf")}, {"step": 5, "a": 6}]
    x, y = series(records, "a", "step")
    np.testing.assert_array_equal(x, [1, 5])
    np.testing.assert_array_equal(y, [2, 6])


def test_the_total_and_the_shares_do_not_press_the_terms_flat():
    records = [
        {
            "step": 1,
            "loss": 90.0,
            "train/rtd": 1.0,
            "train/rtd/accuracy": 0.5,
            "train/rtd/tokens": 90,
            "train/rtd/mass": 9.0,
            "flops": 1.0,
        },
        {"validation/rtd": 1.0, "validation/rtd/cross_entropy": 1.0, "learning_rate": 1.0},
    ]
    assert panels(records) == {
        "nats per scored token": ["train/rtd", "validation/rtd"],
        "loss": ["loss"],
        "accuracy": ["train/rtd/accuracy"],
    }


def test_a_detector_has_a_scale_of_its_own():
    record = {"train/rtd": 0.4, "train/rtd/replaced": 0.14, "train/generator": 5.0, "train/mix/share": 0.5}
    assert panels([record]) == {
        "nats per scored token": ["train/generator"],
        "nats per label": ["train/rtd"],
        "share": ["train/rtd/replaced", "train/mix/share"],
    }


def test_a_term_has_one_colour_in_all_panels():
    record = {"train/mlm": 1.0, "train/clm/accuracy": 0.1, "train/clm": 2.0, "validation/mlm/accuracy": 0.2}
    found = styles(panels([record]))
    assert found["train/mlm"]["color"] == found["validation/mlm/accuracy"]["color"] != found["train/clm"]["color"]
    assert found["train/clm"]["color"] == found["train/clm/accuracy"]["color"]


def test_levels_of_one_kind_that_lie_close_are_one():
    record = {"yardstick/a/unigram": 5.0, "yardstick/b/unigram": 5.03, "yardstick/c/unigram": 5.3}
    record |= {"yardstick/a/bigram": 5.0, "yardstick/d/labels": 0.4, "yardstick/d/majority": 0.86}
    assert levels([record, {}], "nats per scored token", 2.0) == [
        ("unigram", 5.0, ["a", "b"]),
        ("unigram", 5.3, ["c"]),
        ("bigram", 5.0, ["a"]),
    ]
    assert levels([record], "nats per label", 1.0) == [("labels", 0.4, ["d"])]
    assert levels([record], "accuracy", 1.0) == [("majority", 0.86, ["d"])]


@pytest.mark.parametrize("window", [1, 2, 5, 8, 50])
def test_smoothing_is_the_mean_of_the_neighbours(window):
    values = np.random.default_rng(0).normal(size=20)
    before, after = window // 2, window - window // 2
    expected = [np.mean(values[max(0, i - before) : i + after]) for i in range(20)]
    np.testing.assert_allclose(smooth(values, window), expected, rtol=1e-12)


def test_importing_draws_nothing_in():
    script = "import sys, mixlm.reports.curves; assert 'matplotlib' not in sys.modules and 'jax' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_drawing_leaves_pyplot_alone(tmp_path):
    script = (
        "import sys; from mixlm.reports.curves import draw; draw([{'step': 1, 'loss': 1.0}], sys.argv[1]); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "curves.png")]
    assert subprocess.run(command, check=False).returncode == 0
