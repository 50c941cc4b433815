"""A run's page: one HTML file in its folder, which holds everything and loads nothing."""

from dataclasses import dataclass
from pathlib import Path

from mixlm import __version__
from mixlm.analysis.document import Document, Heading, Text, write
from mixlm.analysis.run_page import sections
from mixlm.analysis.run_page.curves import charts
from mixlm.analysis.run_page.examples import MOST as EVALUATIONS
from mixlm.analysis.run_page.examples import Forming, thinned
from mixlm.analysis.run_page.record import Record, read_record

FILE = "report.html"
MOST = 8_000_000  # bytes


@dataclass(frozen=True)
class RunPage:
    """A page that was written: its path, and how far the run was, in a sentence."""

    path: Path
    state: str

    def __str__(self) -> str:
        return f"{self.path}: {self.state}"


def write_page(folder: Path) -> RunPage:
    """Writes the page of the run in `folder` there.

    Raises UserError where the folder holds no run, plotly is not installed, or the folder cannot be written to.
    """
    record = read_record(folder)
    path, content = folder / FILE, compose(record).html().encode()
    write(path, content)
    return RunPage(path, sections.state(record))


def compose(record: Record) -> Document:
    """The blocks of a run's page; nothing is written."""
    document = Document()
    document.add(Heading(f"{record.name}: {record.folder.absolute().name}", 1))
    document.add(Text(f"{sections.state(record)} Page of `{record.folder}`, made by mixlm {__version__}."))
    if record.metrics:
        document.add(Heading("Curves"), charts(record))
        sections.measured(document, record)
    sections.ran(document, record)
    if record.examples:
        shown, kept = len(thinned(record.examples, EVALUATIONS)), len(record.examples)
        of = f"{shown} of the {kept} evaluations" if shown < kept else "every evaluation"
        document.add(Heading("Examples as they formed"))
        document.add(Text(f"The same rows of validation text, with the same noise, at {of}."), Forming(record.examples))
    sections.spent(document, record)
    sections.wrong(document, record)
    return document
