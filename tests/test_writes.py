"""Nothing is written through a link: every place that mixlm writes to is found here, and none leads elsewhere."""

import ast
import contextlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import places
from support.stores import built

from mixlm.checkpoints.checksums import write_manifest
from mixlm.checkpoints.history import Record, write_history
from mixlm.checkpoints.run_dir import RunDir
from mixlm.data.store import fingerprint_cache
from mixlm.data.store.file_lock import exclusive
from mixlm.data.vocabulary import write_atomically
from mixlm.errors import UserError
from mixlm.evaluation.tables import write, write_json
from mixlm.perf.profiler import Profile, Tracer
from mixlm.reports import curves, journal
from mixlm.reports.metrics import Recorder
from mixlm.reports.record import resume
from mixlm.reports.table import Table
from mixlm.reports.trackers.base import About

SOURCES = sorted((places.ROOT / "mixlm").rglob("*.py"))
# Calls that write to a path by themselves. Making, renaming and removing a link touches nothing behind it.
WRITERS = {"write_text", "write_bytes", "touch", "savefig", "save", "savez", "tofile", "dump_to_file", "copyfile"}
# Who may: the room for files; a figure that is drawn into a file that is open; Orbax, whose folder is looked at first.
KNOWN = {
    "mixlm/files.py": {"open", "os.open"},
    "mixlm/data/quiet_tensorflow.py": {"os.open"},  # /dev/null
    "mixlm/evaluation/tasks/confined.py": {"os.open"},  # /dev/null
    "mixlm/reports/curves.py": {"savefig"},
    "mixlm/analysis/style.py": {"save"},
    "mixlm/api/run.py": {"savefig"},
    "mixlm/evaluation/tables.py": {"savefig"},
    "mixlm/checkpoints/saving.py": {"save"},
    "mixlm/interop/hf/imports.py": {"save"},
    "mixlm/training/ledger.py": {"save"},
    "mixlm/training/loop.py": {"save"},
    "mixlm/training/together/loop.py": {"save"},
}


def writes(tree: ast.Module) -> set[str]:
    """The calls that open a path for writing, or write to one; `open` for reading is none."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        texts = [
            each.value
            for each in [*node.args, *(word.value for word in node.keywords)]
            if isinstance(each, ast.Constant)
        ]
        if name in WRITERS:
            found.add(name)
        elif name == "open":
            called, flags = ast.unparse(node.func), " ".join(map(ast.unparse, node.args))
            modes = [text for text in texts if isinstance(text, str) and set(text) <= set("rwxabt+")]
            unknown = called == "open" and len(node.args) > 1 and not isinstance(node.args[1], ast.Constant)
            if called == "os.open" and any(flag in flags for flag in ("O_WRONLY", "O_RDWR", "flags")):
                found.add("os.open")
            elif called != "os.open" and (unknown or any(set(mode) & set("wxa+") for mode in modes)):
                found.add("open")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(places.ROOT).as_posix())
def test_what_is_written_goes_through_the_room_for_files(path):
    name, text = path.relative_to(places.ROOT).as_posix(), path.read_text(encoding="utf-8")
    if "open(" in text or any(f"{writer}(" in text for writer in WRITERS):
        assert writes(ast.parse(text)) <= KNOWN.get(name, set())


@pytest.mark.parametrize(
    "source",
    [
        'open(p, "w")',
        'p.open("ab")',
        'open(p, mode="r+b")',
        "p.write_text(t)",
        "os.open(p, os.O_RDWR)",
        "open(p, mode)",
    ],
)
def test_a_write_is_seen(source):
    assert len(writes(ast.parse(source))) == 1


@pytest.mark.parametrize("source", ["open(p)", 'p.open("rb")', "os.open(p, os.O_RDONLY)", 'text.replace("w", "x")'])
def test_a_read_is_no_write(source):
    assert writes(ast.parse(source)) == set()


OPENED: list[str] = []
WATCHING = [False]
HOOKS: list = []


def _watch(event: str, arguments: tuple) -> None:
    if WATCHING[0] and event in ("open", "os.rename", "os.mkdir"):
        OPENED.extend(str(argument) for argument in arguments[: 2 if event == "os.rename" else 1])


@contextlib.contextmanager
def watched(folder: Path):
    """The names inside of `folder` that Python opens, makes or renames to inside of the block."""
    if not HOOKS:
        HOOKS.append(_watch)
        sys.addaudithook(_watch)
    OPENED.clear()
    WATCHING[0], names = True, set()
    try:
        yield names
    finally:
        WATCHING[0] = False
    names |= {os.path.relpath(path, folder) for path in OPENED if path.startswith(f"{folder}{os.sep}")}


def make(path: Path, content: bytes) -> None:
    if not os.path.lexists(path):
        path.write_bytes(content)


def recorded(folder: Path) -> None:
    make(folder / "metrics.jsonl", b"damaged\n")
    resume(folder, 3, [b'{"step": 1, "stage": "s"}\n'], 2, 1)
    with Recorder(folder, 3) as recorder:
        recorder.write(4, "s", {"loss": 1.0})


def claimed(folder: Path) -> None:
    held = RunDir(folder)
    try:
        held.acquire({"seed": "0"}, "SEED = 0\n")
    finally:
        held.release()


def trace(folder: Path, **_: object) -> None:
    """What JAX's profiler does with a folder."""
    (folder / "plugins" / "profile" / "now").mkdir(parents=True, exist_ok=True)
    (folder / "plugins" / "profile" / "now" / "host.xplane.pb").write_bytes(b"trace")


def profiled(folder: Path) -> None:
    Tracer(Profile(1, 1), folder / "profile").begin(0, 0)


def locked(folder: Path) -> None:
    with exclusive(folder / "stores" / ".lock", lambda: None):
        pass


def remembered(folder: Path) -> None:
    with fingerprint_cache.caching_in(folder / "records"):
        fingerprint_cache.save_record("key", {"a": 1})


def checkpointed(folder: Path) -> None:
    (folder / "default").mkdir(exist_ok=True)
    make(folder / "metrics.jsonl", b"1\n")
    write_history(folder, Record(folder / "metrics.jsonl", 2))
    write_manifest(folder)


def journaled(folder: Path) -> None:
    make(folder / "examples.jsonl", b"damaged\n")
    journal.note_end(folder, "here")
    journal.add_examples(folder, 1, [])
    About(folder).remember("wandb", "a1")


WRITTEN = {
    "record": recorded,
    "journal": journaled,
    "run": claimed,
    "curves": lambda folder: curves.draw([{"step": 1, "loss": 1.0}], folder / "curves.png"),
    "table": lambda folder: Table([{"step": 1}]).to_csv(folder / "table.csv"),
    "evaluation": lambda folder: write_json(folder / "evaluation" / "text.json", {"a": 1}),
    "picture": lambda folder: write(folder / "evaluation" / "pairs.png", b"png"),
    "checkpoint": checkpointed,
    "profile": profiled,
    "store": lambda folder: built(folder / "store"),
    "vocabulary": lambda folder: write_atomically(folder / "vocabularies" / "a.model", b"model"),
    "fingerprints": remembered,
    "lock": locked,
}


# Folders of the cache, which belong to no run: a user may keep them behind links.
CACHE_FOLDERS = {"vocabularies", "records", "stores"}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_link_at_any_name_that_is_written_leads_nowhere(kind, tmp_path, monkeypatch):
    """Once to see the names; then again for each name, with a link in its place to a file, a folder, or nothing."""
    import jax

    monkeypatch.setattr(jax.profiler, "start_trace", trace)
    drawn = SimpleNamespace(savefig=lambda file, **_: file.write(b"png"))
    monkeypatch.setattr(curves, "figure", lambda *_: drawn)
    (tmp_path / "seen").mkdir()
    with watched(tmp_path / "seen") as names:
        WRITTEN[kind](tmp_path / "seen")
    names -= CACHE_FOLDERS
    assert names
    for number, name in enumerate(sorted(names)):
        for target in ("file", "folder", "nothing"):
            folder, outside = tmp_path / f"{number} {target}", tmp_path / f"{target} outside {number}"
            (folder / name).parent.mkdir(parents=True)
            if target == "file":
                outside.write_text("kept")
            elif target == "folder":
                outside.mkdir()
            (folder / name).symlink_to(outside)
            with contextlib.suppress(UserError, OSError):
                WRITTEN[kind](folder)
            left = outside.read_text() if outside.is_file() else [*outside.iterdir()] if outside.is_dir() else None
            assert left == {"file": "kept", "folder": [], "nothing": None}[target], name
