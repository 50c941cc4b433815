"""Pages of runs and studies in a real browser: no word on its console, and nothing that is wider than the page."""

import shutil
import subprocess

import pytest
from support.made_up_run import made_up_run
from support.made_up_study import rows_of, study_of, written

from mixlm.analysis.run_page import page
from mixlm.api.report import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
FLAGS += "disable-component-update disable-sync hide-scrollbars enable-logging=stderr virtual-time-budget=10000"
# What a page says of itself once it is drawn: its width, how much wider its content is, its curves, and that of one.
PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  const root = document.documentElement, charts = [...document.querySelectorAll(".chart")];
  const drawn = charts.map((chart) => chart.querySelector(".main-svg").getBoundingClientRect().width);
  const wider = Math.max(0, ...charts.map((chart, n) => Math.round(drawn[n] - chart.clientWidth)));
  console.log(`PROBE ${innerWidth} ${root.scrollWidth - innerWidth} ${charts.length} ${wider}`);
}, 4000));</script></body>"""
# A window is 500 pixels wide at least, a frame as narrow as one likes.
FRAME = '<body style="margin:0"><iframe src="{page}" style="border:0" width="{width}" height="3000"></iframe></body>'


def run_page(folder):
    """The page of a run."""
    return report(made_up_run(folder / "run")).path


def study_page(folder):
    """The report of a study."""
    rows = rows_of(alphas=(1.0, 0.5), epochs=(1, 64), seeds=(0, 1))
    table = written(folder, rows, study_of(rows, metrics={"validation/causal": "min"}, claims=[]))
    return report(table).folder / "report.html"


WRITTEN = {"run": run_page, "study": study_page}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is at hand")
@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_browser_draws_a_page_without_an_error_and_within_its_width(tmp_path, kind, width, scheme):
    pytest.importorskip("plotly")
    path = WRITTEN[kind](tmp_path)
    content = path.read_text()
    assert len(content.encode()) < page.MOST
    path.write_text(content.replace("</body>", PROBE))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(page=path.as_uri(), width=width))
    flags = [f"--{flag}" for flag in FLAGS.split()]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,3000"]
    flags += [f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"]
    command = ["nice", "-n", "10", CHROMIUM, *flags, "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    (said,) = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    words = said.partition('"PROBE ')[2].partition('"')[0].split()
    assert words[:2] == [str(width), "0"] and words[3] == "0", said
    assert int(words[2]) > 0, said
