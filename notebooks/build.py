"""Makes notebooks from their sources: python notebooks/build.py [NAME ...] [--heads | --check].

NAME.py is the source (Jupytext's percent format), NAME.ipynb the same cells with their outputs. A build executes the
notebooks in an empty folder, with warnings as errors, and keeps what they show. With --heads it only rewrites the cells
that all share, outputs stay; with --check it only says what is wrong, and writes nothing.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
LARGEST = 1_500_000  # bytes of a file; GitHub shows no notebook that is much larger
SECONDS = 1800  # of a cell, on a machine that does other things as well; a notebook promises ten minutes on an idle one
COLAB = "https://colab.research.google.com"
BADGE = "[![Open in Colab]({colab}/assets/colab-badge.svg)]({link})"
# Where there is no public address, Colab's first page takes an upload.
UPLOAD = """

Upload this file there, and beside it a wheel of mixlm, which `pip wheel --no-deps -w dist .` makes in a checkout."""
INSTALL = """# Installs mixlm where it is missing, such as on Colab; all that the runtime has keeps its version.
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("mixlm") is None:
    published, here, has = "{address}", Path.cwd(), {{}}
    near = [str(each) for each in (here, *here.parents) if (each / "mixlm" / "gin_config").is_dir()]  # a checkout
    near += sorted(map(str, here.glob("mixlm-*.whl")))
    if not near and not published:
        raise ModuleNotFoundError("mixlm is not installed: put a wheel of it beside this notebook and run this again.")
    source = f"{{near[0]}}[report]" if near else f"mixlm[report] @ git+{{published}}"
    for each in importlib.metadata.distributions():  # of two versions the first is imported
        has.setdefault(re.sub("[-_.]+", "-", each.name or "").lower(), each.version or "")
    kept = "".join(f"{{name}}=={{version}}\\n" for name, version in has.items() if re.match(r"\\d[\\w.+!]*$", version))
    command = [sys.executable, "-m", "pip", "install", "-q", "--constraint=/dev/stdin", source]
    subprocess.run(command, input=kept, text=True, check=True)
    importlib.invalidate_caches()"""
HEAD_CELLS = 2  # badge and installation
# Warnings are errors, but those of the kernel about itself, which no notebook can help.
KERNEL = ("ipykernel", "IPython", "jupyter_client", "tornado", "zmq")
STRICT = f"""import warnings
warnings.simplefilter("error")
for name in {KERNEL}:
    warnings.filterwarnings("ignore", module=rf"{{name}}\\b")"""
_BAR = re.compile(r"^\s*$|/\S+ \||\d+%\|")  # lines of tqdm
_PROGRESS = re.compile(r"\d+/\d+  \w")  # what training says between: "80/80  validation ..."
_WIDGET = "application/vnd.jupyter.widget-view+json"  # a bar where ipywidgets are installed
_PLACES = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|usr|work|content|var|opt|Users|mnt)/[\w.-]+")
_FORBIDDEN = {
    "sys.path": re.compile(r"\bsys\.path\b"),
    "text of gin files": re.compile(r"__gin__|--gin[._]|gin\.parse|import gin\b|^\s*include '", re.M),
    "a module of mixlm": re.compile(r"^\s*from mixlm\b.*\bimport\b|^\s*import mixlm\.", re.M),
}
# Where a new objective is defined, these are what docs/extending.md defines it with.
OPEN_MODULES = ("mixlm.example", "mixlm.losses", "mixlm.objectives", "mixlm.tokens")


def names() -> list[str]:
    """The notebooks that there are, by their sources."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.name != Path(__file__).name)


def address() -> str:
    """The public address of the repository: `Repository` in pyproject.toml's urls, "" until it is published."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: str = tomllib.load(file)["project"]["urls"].get("Repository", "")
    return found.removesuffix("/")


def head(name: str) -> list[Any]:
    """The cells that every notebook begins with: the badge, and the installation."""
    published = address()
    repository = published.removeprefix("https://github.com/")
    link = f"{COLAB}/github/{repository}/blob/main/notebooks/{name}.ipynb" if published else COLAB
    badge = BADGE.format(colab=COLAB, link=link) + ("" if published else UPLOAD)
    return [nbformat.v4.new_markdown_cell(badge), nbformat.v4.new_code_cell(INSTALL.format(address=published))]


def read_source(name: str) -> Any:
    """The cells of NAME.py, under the head that is valid now."""
    found = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    begins = HEAD_CELLS if found.cells and "colab-badge" in found.cells[0].source else 0
    cells = [*head(name), *found.cells[begins:]]
    for number, cell in enumerate(cells):
        cell.id, cell.metadata = f"cell-{number:02}", {}
    return nbformat.v4.new_notebook(cells=cells)


def written_source(notebook: Any) -> str:
    """A notebook as the text of its NAME.py."""
    plain = nbformat.v4.new_notebook(cells=notebook.cells, metadata={"jupytext": {"notebook_metadata_filter": "-all"}})
    return jupytext.writes(plain, fmt="py:percent").strip() + "\n"


def execute(notebook: Any, folder: Path, fast: bool = False) -> Any:
    """Runs a notebook in `folder`, warnings as errors; `fast` takes its smallest settings (MIXLM_FAST=1)."""
    strict = nbformat.v4.new_code_cell(STRICT)
    running = nbformat.v4.new_notebook(cells=[strict, *notebook.cells])
    environment = os.environ | {"MIXLM_FAST": str(int(fast)), "MPLBACKEND": "agg", "TF_CPP_MIN_LOG_LEVEL": "3"}
    client = NotebookClient(
        running, timeout=SECONDS, kernel_name="python3", record_timing=False, coalesce_streams=True,
        startup_timeout=300, resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    client.execute(env=environment)
    return nbformat.v4.new_notebook(cells=running.cells[1:])


def normal(notebook: Any) -> Any:
    """The notebook without what differs from machine to machine: counts, bars of progress, the kernel's version."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        cell.execution_count = number
        cell.outputs = [kept for each in cell.outputs if (kept := _without_bars(each)) is not None]
        for each in cell.outputs:
            if "execution_count" in each:
                each.execution_count = number
            if "image/png" in each.get("data", {}):
                each["data"].pop("text/plain", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _without_bars(output: Any) -> Any:
    """An output without bars of progress, None where it is nothing else; what training says there is no error."""
    if output.get("name") != "stderr":
        return None if _WIDGET in output.get("data", {}) else output
    lines = [line.strip() for line in output["text"].replace("\r", "\n").splitlines() if not _BAR.search(line)]
    if not lines:
        return None
    name = "stdout" if all(map(_PROGRESS.match, lines)) else "stderr"
    return nbformat.v4.new_output("stream", name=name, text="\n".join(lines) + "\n")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def source_digest(notebook: Any) -> str:
    """A fingerprint of the code below the head, on which the outputs depend."""
    return _digest([cell.source for cell in notebook.cells[HEAD_CELLS:] if cell.cell_type == "code"])


def output_digest(notebook: Any) -> str:
    """A fingerprint of the outputs, by which one sees that they are those of the build."""
    return _digest([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])


def build(name: str) -> None:
    """Executes a notebook and writes it with its outputs, and its source under the valid head."""
    import mixlm

    source = read_source(name)
    with tempfile.TemporaryDirectory() as folder:
        made = normal(execute(source, Path(folder)))
    made.metadata["mixlm"] = {
        "version": mixlm.__version__, "source": source_digest(made), "outputs": output_digest(made),
    }  # fmt: skip
    _write(name, made)


def _write(name: str, notebook: Any) -> None:
    (FOLDER / f"{name}.py").write_text(written_source(notebook), encoding="utf-8")
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    (FOLDER / f"{name}.ipynb").write_text(text + "\n", encoding="utf-8")


def rewrite_head(name: str) -> None:
    """Puts the valid head, and the text of cells that are no code, into both files; outputs stay."""
    source, kept = read_source(name), nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    codes = [[cell for cell in each.cells if cell.cell_type == "code"] for each in (source, kept)]
    if len(codes[0]) != len(codes[1]):
        sys.exit(f"{name}.py has other cells than {name}.ipynb: python notebooks/build.py {name}")
    for cell, old in zip(*codes):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    source.metadata = kept.metadata
    _write(name, source)


def faults(name: str) -> Iterator[str]:
    """What is wrong with a pair of files, a sentence each."""
    source, path = FOLDER / f"{name}.py", FOLDER / f"{name}.ipynb"
    if not path.exists():
        yield f"{path.name} is missing: python notebooks/build.py {name}"
        return
    notebook, expected = nbformat.read(path, as_version=4), read_source(name)
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    if source.read_text(encoding="utf-8") != written_source(expected):
        yield f"{source.name} has another head or layout than build.py writes: python notebooks/build.py {name} --heads"
    if cells != [(cell.cell_type, cell.source) for cell in expected.cells]:
        yield f"{path.name} and {source.name} have different cells"
    made = notebook.metadata.get("mixlm", {})
    if made.get("source") != source_digest(expected) or made.get("outputs") != output_digest(notebook):
        yield f"the outputs of {path.name} are not those of its code: python notebooks/build.py {name}"
    if path.stat().st_size > LARGEST:
        yield f"{path.name} has {path.stat().st_size:,} bytes, more than {LARGEST:,}"
    for cell in notebook.cells:
        yield from _faults_of_cell(path.name, cell)


def _faults_of_cell(name: str, cell: Any) -> Iterator[str]:
    if cell.cell_type != "code":
        return
    where = f"{name}, cell {cell.execution_count}"
    if cell.execution_count is None:
        yield f"{where} was not executed: {cell.source.splitlines()[0]}"
    for what, pattern in _FORBIDDEN.items():
        lines = [each[0] for each in pattern.finditer(cell.source)]
        if what == "a module of mixlm":
            lines = [line for line in lines if not any(line.split()[1].startswith(each) for each in OPEN_MODULES)]
        if lines:
            yield f"{where} has {what}: {lines[0].strip()}"
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"{where} ended with {output.ename}: {output.evalue}"
        if output.get("name") == "stderr":
            yield f"{where} wrote to stderr: {output.text.strip().splitlines()[-1]}"
    shown = [output.get("text", "") for output in cell.outputs]
    shown += [text for output in cell.outputs for kind, text in output.get("data", {}).items() if "text" in kind]
    for text in [cell.source, *shown]:
        if found := _PLACES.search("".join(text)):
            yield f"{where} names a place of one machine: {found[0]}"
        if re.search(r"\w+Warning: ", "".join(text)):
            yield f"{where} shows a warning"


def main(argv: Sequence[str]) -> int:
    """Builds the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *names()], help="default: all")
    parser.add_argument("--heads", action="store_true", help="only rewrite what is no code of the notebook's own")
    parser.add_argument("--check", action="store_true", help="only say what is wrong")
    given = parser.parse_args(argv)
    found: list[str] = []
    for name in given.names or names():
        if given.check:
            found += faults(name)
            continue
        (rewrite_head if given.heads else build)(name)
        found += faults(name)
    print("\n".join(found) or "notebooks: all is well")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
