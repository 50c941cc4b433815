"""The project's pages as data: code blocks with their places, links, and what is written in backquotes."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

from support.places import ROOT

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
_FENCE = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its first line of code, its language, the file name in its title, its text."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page, of one language where it is given."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, text[: match.start()].count("\n") + 2, match["language"], match["title"], match["text"])
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if language in (None, block.language)]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def titled(page: Path, heading: str) -> dict[str, str]:
    """The files that the blocks below a heading of level 2 give in full, by the names in their titles."""
    text = page.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    found = {match["title"]: match["text"] for match in _FENCE.finditer(sections[heading]) if match["title"]}
    assert found, f"{page.name} has no file below {heading!r}"
    return found


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Every shell command of a page as (its place, its words); of a `for` loop that of the first round."""
    for block in blocks(page, "bash"):
        values: dict[str, str] = {}
        lines = block.text.replace("\\\n", " ").splitlines()
        for number, line in enumerate(lines, block.line):
            if loop := re.fullmatch(r"for (\w+) in (\S+)[^;]*; do", line.strip()):
                values[loop[1]] = loop[2]
                continue
            words = shlex.split(Template(line).safe_substitute(values), comments=True)
            for part in _parts(words):
                if part and part != ["done"]:
                    yield f"{page.relative_to(ROOT)}:{number}", part


def _parts(words: list[str]) -> Iterator[list[str]]:
    while "&&" in words:
        end = words.index("&&")
        yield words[:end]
        words = words[end + 1 :]
    yield words
