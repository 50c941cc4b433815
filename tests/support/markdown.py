"""The project's pages as data: code blocks with their places, links, and what is written in backquotes."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from string import Template

from support.places import ROOT

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
PROGRAMS = ("docker", "gcloud", "sbatch", "srun", "xpk")  # of other people, which run mixlm elsewhere
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
    """Every command of a page as (its place, its words); of a `for` loop that of the first round."""
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
    for block in blocks(page, "yaml"):
        for listed in re.findall(r"command: \[(.+)\]", block.text):
            yield str(block), listed.split(", ")


def _parts(words: list[str]) -> Iterator[list[str]]:
    while "&&" in words:
        end = words.index("&&")
        yield words[:end]
        words = words[end + 1 :]
    yield words


def sent(words: list[str]) -> list[str] | None:
    """The command that another program starts: SLURM's and Docker's after its flags, a cloud's in `--command`."""
    program, *rest = words
    if program == "sudo":
        return rest
    if program == "srun":
        return list(dropwhile(_is_flag, rest))
    if words[:2] == ["docker", "run"]:
        _image, *arguments = dropwhile(_is_flag, words[2:])
        return ["mixlm", *arguments]  # the image's entry point
    texts = [word.removeprefix("--command=") for word in rest if word.startswith("--command=")]
    return shlex.split(texts[0]) if texts else None


def _is_flag(word: str) -> bool:
    return word.startswith("-")
