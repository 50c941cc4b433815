"""The Dockerfile: linted, made of what is there and let in, small layers, no root, volumes where mixlm writes."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXT = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", "")
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip()]
LAST = max(index for index, (word, _) in enumerate(LINES) if word == "FROM")
IMAGE = LINES[LAST:]  # the stage that is kept


def given(word, lines=IMAGE):
    return [rest for name, rest in lines if name == word]


def settings(word):
    return dict(pair.split("=", 1) for rest in given(word) for pair in rest.split())


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    found = str(hadolint) if hadolint.exists() else shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([found, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def let_in(path):
    """Whether .dockerignore leaves a path of the checkout in what Docker is sent: the last rule that fits it holds."""
    held = True
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = rule.removeprefix("!").removeprefix("**/").rstrip("/")
        parts = path.split("/")
        above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        names = above if not rule.startswith("**/") else parts
        if rule.strip() and not rule.startswith("#") and any(fits(name, pattern) for name in names):
            held = rule.startswith("!")
    return held


def fits(name, pattern):
    """Whether a pattern names this path: a star stays within one folder."""
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)


def test_what_is_copied_is_there_and_is_let_in():
    copied = [name for rest in given("COPY", LINES) for name in rest.split()[:-1]]
    assert {"mixlm", "gin", "studies"} <= set(copied)
    files = [name for name in copied if "." in name or name.isupper()]
    for path in (*files, "mixlm/analysis/page.css", "gin/scale/dual.gin", "studies/dual.gin", "mixlm/py.typed"):
        assert (ROOT / path).exists() and let_in(path), path
    for path in ("docs/index.md", "runs/a/x", "mixlm/data/__pycache__/a.pyc", ".git/config", "studies/mile/cells.csv"):
        assert not let_in(path), path


@pytest.mark.parametrize("extras", ["", "cuda13", "cuda12,report", "tpu"])
def test_the_requirements_are_those_of_the_project_and_its_extras(extras, tmp_path):
    (run,) = [rest for rest in given("RUN", LINES[:LAST]) if "tomllib" in rest]
    command, _, _ = run.rpartition(" > ")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    python = {**os.environ, "EXTRAS": extras, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    (tmp_path / "python").symlink_to(sys.executable)
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=python, capture_output=True, text=True)
    optional = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + [each for name in extras.split(",") if name for each in optional[name]]
    assert done.stdout.splitlines() == wanted, done.stderr


def test_code_comes_after_what_it_needs_so_that_its_layer_is_small():
    layers = [(word, rest) for word, rest in IMAGE if word in ("RUN", "COPY", "ADD")]
    assert [word for word, _ in layers] == ["RUN"] * 3  # what the stages before hold is mounted, not copied
    needs, code, users = (rest for _, rest in layers)
    assert "--requirement=" in needs and "--no-cache-dir" in needs
    assert "--no-deps" in code and "--no-cache-dir" in code and "useradd" in users


def test_bases_are_one_pinned_python_that_mixlm_runs_on():
    (base,) = {rest.split(" AS ")[0] for rest in given("FROM", LINES)}
    assert re.fullmatch(r"python:3\.1[1-3]-slim-\w+", base)


def test_the_user_is_not_root_and_may_write_into_the_volumes():
    (user,) = given("USER")
    assert user == "$RUN_AS" and settings("ARG")["RUN_AS"] not in ("root", "0")
    (made,) = [rest for rest in given("RUN") if "useradd" in rest]
    assert f" {settings('ARG')['RUN_AS']} " in made
    (volumes,) = map(json.loads, given("VOLUME"))
    (workdir,) = given("WORKDIR")
    assert set(volumes) == {settings("ENV")["MIXLM_CACHE"], f"{workdir}/runs"}  # where MODEL_DIR is by default
    assert {*volumes, workdir} == set(made.partition("-m 1777 ")[2].split())
    assert settings("ENV")["HOME"] == workdir and settings("ENV")["MPLCONFIGDIR"].startswith("/cache/")


def test_the_command_is_mixlm():
    ((entry,),) = map(json.loads, given("ENTRYPOINT"))
    (words,) = map(json.loads, given("CMD"))
    assert entry in PROJECT["scripts"] and words == ["--help"]
