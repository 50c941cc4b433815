"""A report as a list of headings, paragraphs, tables and figures, written as Markdown and as one page of HTML."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from mixlm.errors import UserError
from mixlm.files import replacing
from mixlm.paths import refuse_link
from mixlm.reports.table import Table

VERDICTS = ("shown", "not shown", "opposite", "undecided", "better", "worse")
_CODE = re.compile(r"`([^`]+)`")
_STRONG = re.compile(r"\*\*([^*]+)\*\*")


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the report's."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph, in which `code` and **strong** are marked as in Markdown."""

    text: str


@dataclass(frozen=True)
class Figures:
    """A table whose cells are texts; `file` names the CSV that has the figures in full."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    file: str | None = None


@dataclass(frozen=True)
class Picture:
    """A figure: its file, its bytes (PNG), what it shows, and the CSV of its data."""

    file: str
    content: bytes
    caption: str
    data: str | None = None


@dataclass(frozen=True)
class Folded:
    """A text as it is, such as a configuration, that a click on its title opens."""

    title: str
    text: str


class Part:
    """A block that knows its own HTML; `scripts` are JavaScript that the page needs once, at its end."""

    scripts: tuple[str, ...] = ()

    def html(self) -> str:
        """The block as HTML."""
        raise NotImplementedError

    def markdown(self) -> str:
        """The block as Markdown, empty for what only a page can show."""
        return ""


Block = Heading | Text | Figures | Picture | Folded | Part


@dataclass
class Document:
    """The blocks of a report in order, and the tables that are written beside it as CSV."""

    blocks: list[Block] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)

    def add(self, *blocks: Block) -> None:
        """Appends blocks."""
        self.blocks.extend(blocks)

    def keep(self, name: str, table: Table) -> str:
        """Keeps a table to be written as `name`, and returns the name."""
        self.tables[name] = table
        return name

    def markdown(self) -> str:
        """The report as Markdown."""
        return "\n\n".join(filter(None, map(_markdown, self.blocks))) + "\n"

    def html(self) -> str:
        """The report as one page that holds its figures and loads nothing."""
        title = next((block.text for block in self.blocks if isinstance(block, Heading)), "report")
        style = files("mixlm.analysis").joinpath("page.css").read_text(encoding="utf-8")
        body = "\n".join(_html(block) for block in self.blocks)
        scripts = dict.fromkeys(each for block in self.blocks if isinstance(block, Part) for each in block.scripts)
        code = "".join(f"<script>\n{each}\n</script>\n" for each in scripts)
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(_plain(title))}</title>\n<style>\n{style}</style>\n</head>\n"
            f"<body>\n<main>\n{body}\n</main>\n{code}</body>\n</html>\n"
        )


def _markdown(block: Block) -> str:
    if isinstance(block, Part):
        return block.markdown()
    if isinstance(block, Folded):
        return f"{block.title}\n\n```text\n{block.text}\n```"
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Picture):
        return f"![{_plain(block.caption)}]({block.file})\n\n*{_sourced(block.caption, block.data)}*"
    widths = [max(map(len, column)) for column in zip(block.columns, *block.rows)]
    lines = [block.columns, ["-" * width for width in widths], *block.rows]
    # A pipe would end the cell.
    rows = [
        "| " + " | ".join(cell.replace("|", "\\|").ljust(w) for cell, w in zip(line, widths)) + " |" for line in lines
    ]
    return "\n".join(rows) + f"\n\n*{_sourced(block.caption, block.file)}*"


def _sourced(caption: str, file: str | None) -> str:
    return caption if file is None else f"{caption} ({file})"


def _html(block: Block) -> str:
    if isinstance(block, Part):
        return block.html()
    if isinstance(block, Folded):
        return f"<details><summary>{marked(block.title)}</summary><pre>{html.escape(block.text)}</pre></details>"
    if isinstance(block, Heading):
        return f"<h{block.level}>{marked(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return _paragraph(block.text)
    if isinstance(block, Picture):
        data = base64.b64encode(block.content).decode()
        caption = marked(_sourced(block.caption, block.data))
        alt = html.escape(_plain(block.caption), quote=True)
        return (
            f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
        )
    head = "".join(f"<th>{marked(name)}</th>" for name in block.columns)
    body = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in block.rows)
    caption = marked(_sourced(block.caption, block.file))
    return (
        f"<figure><div class='table'><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _paragraph(text: str) -> str:
    """A paragraph, or a list where each line begins as Markdown's items do."""
    lines = text.split("\n")
    if all(line.startswith("- ") for line in lines):
        return "<ul>" + "".join(f"<li>{marked(line[2:])}</li>" for line in lines) + "</ul>"
    return f"<p>{marked(text)}</p>"


def _cell(text: str) -> str:
    kind = f" class='{text.strip('*').replace(' ', '-')}'" if text.strip("*") in VERDICTS else ""
    return f"<td{kind}>{marked(text)}</td>"


def marked(text: str) -> str:
    """A line of text as HTML, with its `code` and its **strong**."""
    escaped = html.escape(text, quote=False)
    return _STRONG.sub(r"<strong>\1</strong>", _CODE.sub(r"<code>\1</code>", escaped))


def _plain(text: str) -> str:
    return text.replace("`", "").replace("**", "")


def write(path: Path, content: bytes) -> None:
    """Replaces a file of a report; UserError where it is a link, or cannot be written."""
    refuse_link(path)
    try:
        with replacing(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None
