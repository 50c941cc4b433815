"""Notebooks and their sources are pairs, their outputs are those of their code, and every one of them runs."""

import importlib.util

import pytest
from support.places import ROOT

pytest.importorskip("nbclient")
pytest.importorskip("jupytext")

_SPEC = importlib.util.spec_from_file_location("notebooks_build", ROOT / "notebooks" / "build.py")
build = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(build)


@pytest.mark.parametrize("name", build.names())
def test_a_notebook_is_its_source_with_the_outputs_of_its_code(name):
    assert list(build.faults(name)) == []


def test_every_notebook_has_a_source():
    assert sorted(path.stem for path in build.FOLDER.glob("*.ipynb")) == build.names()


@pytest.mark.slow
@pytest.mark.parametrize("name", build.names())
def test_a_notebook_runs_with_warnings_as_errors(name, tmp_path, monkeypatch):
    # The tests' eight virtual devices would cut small batches.
    flags = [flag for flag in build.os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    monkeypatch.setenv("XLA_FLAGS", " ".join(flags))
    made = build.normal(build.execute(build.read_source(name), tmp_path, fast=True))
    assert [fault for cell in made.cells for fault in build._faults_of_cell(name, cell)] == []
