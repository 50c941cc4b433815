"""Writes the page of a run, mixlm report RUN, or the report of a study, mixlm report STUDY, its folder or cells.csv.

The page of a run is the file report.html in its folder. The report of a study goes into the folder `report` beside
cells.csv: report.md, report.html, figures (PNG) and tables (CSV). Both need the extra: pip install 'mixlm[report]'.
"""

import argparse
import sys
from collections.abc import Sequence

from mixlm.cli.arguments import command_parser, parsed
from mixlm.errors import UserError
from mixlm.reports.table import Table


def main() -> None:
    """Writes the report that the command line asks for, and prints the verdicts and where it is."""
    given = parse(sys.argv[1:])
    from mixlm.analysis.run_page.page import RunPage
    from mixlm.api.report import report

    written = report(given.study, given.partial, given.loss)
    if isinstance(written, RunPage):
        print(written)
        return
    if written.findings:
        print(Table([{"verdict": each.verdict, "claim": each.claim} for each in written.findings]))
    print(f"In {written.folder}: report.md, report.html, figures and {len(written.tables)} tables.")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The study and the options; UserError for an option that there is not."""
    parser = command_parser(__doc__)
    parser.add_argument("study", nargs="?", metavar="RUN or STUDY", help="the folder of either, or cells.csv")
    parser.add_argument("--partial", action="store_true", help="find the optimum of a grid that is incomplete, too")
    parser.add_argument(
        "--loss", type=float, metavar="X", help="the loss in the table of FLOPs; default: the baseline's final one"
    )
    given = parsed(parser, argv, "A report is of one run or study")
    if given.study is None:
        raise UserError("A report is of a run or a study: mixlm report FOLDER, or the cells.csv of a study.")
    return given
