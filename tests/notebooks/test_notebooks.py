"""Notebooks and their sources are pairs, their outputs are those of their code, and every one of them runs."""

import importlib.util
import re
import tomllib

import pytest
from support.places import ROOT

pytest.importorskip("nbclient")
pytest.importorskip("jupytext")

_SPEC = importlib.util.spec_from_file_location("notebooks_build", ROOT / "notebooks" / "build.py")
build = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(build)


@pytest.mark.parametrize("name", sorted(path.stem for path in build.FOLDER.glob("*.ipynb")))
def test_a_notebook_is_its_source_with_the_outputs_of_its_code(name):
    assert list(build.faults(name)) == []


def test_every_notebook_has_a_source():
    # A source without its notebook is a draft, which only the slow test executes.
    assert {path.stem for path in build.FOLDER.glob("*.ipynb")} <= set(build.names())


def installed_by_the_cell(monkeypatch, folder, address=""):
    """What the installation cell asks pip for, where it is run in a folder and mixlm is not installed."""
    asked = []
    monkeypatch.chdir(folder)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        patch.setattr("subprocess.run", lambda command, **rest: asked.append((command, rest["input"])))
        exec(build.INSTALL.format(address=address), {})
    ((command, kept),) = asked
    assert command[1:6] == ["-m", "pip", "install", "-q", "--constraint=/dev/stdin"] and "\nnumpy==" in f"\n{kept}"
    return command[6]


def test_the_installation_cell_takes_a_checkout_then_a_wheel_then_the_public_address(monkeypatch, tmp_path):
    assert installed_by_the_cell(monkeypatch, ROOT / "notebooks", "https://a.org/x") == f"{ROOT}[report]"
    assert installed_by_the_cell(monkeypatch, tmp_path, "https://a.org/x") == "mixlm[report] @ git+https://a.org/x"
    with pytest.raises(ModuleNotFoundError, match="put a wheel of it beside this notebook"):
        installed_by_the_cell(monkeypatch, tmp_path)
    wheel = tmp_path / "mixlm-1.0-py3-none-any.whl"
    wheel.touch()
    assert installed_by_the_cell(monkeypatch, tmp_path, "https://a.org/x") == f"{wheel}[report]"


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A function that writes a pair of files whose one cell has `code` and showed `text`, as a build would."""
    monkeypatch.setattr(build, "FOLDER", tmp_path)

    def written(code="print(1)", text="1\n", name="stdout"):
        (tmp_path / "one.py").write_text(f"# %%\n{code}\n", encoding="utf-8")
        notebook = build.read_source("one")
        notebook.cells[-1].outputs = [build.nbformat.v4.new_output("stream", name=name, text=text)]
        made = build.normal(notebook)
        made.metadata["mixlm"] = {"source": build.source_digest(made), "outputs": build.output_digest(made)}
        build._write("one", made)
        return tmp_path / "one.py", tmp_path / "one.ipynb"

    return written


def test_a_pair_as_it_is_built_has_no_fault(pair):
    source, _ = pair()
    assert list(build.faults("one")) == [] and "colab-badge" in source.read_text(encoding="utf-8")
    # A bar of progress is no output, and the head may change without a build.
    _, path = pair(text=" 3/9 |###   | 00:01 left\r9/9  validation causal 3.1\n", name="stderr")
    assert list(build.faults("one")) == []
    [kept] = build.nbformat.read(path, as_version=4).cells[-1].outputs
    assert kept.name == "stdout" and kept.text == "9/9  validation causal 3.1\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"code": "import sys; sys.path.append('x')"}, "has sys.path"),
        ({"code": "flags = ['--gin.ALPHA=1']"}, "has text of gin files"),
        ({"code": "from mixlm.training import run"}, "has a module of mixlm: from mixlm.training import"),
        ({"code": "print('/home/me/runs')"}, "names a place of one machine: /home/me"),
        ({"text": "in /tmp/tmpab12/runs\n"}, "names a place of one machine: /tmp/tmpab12"),
        ({"text": "a.py:3: DeprecationWarning: old\n"}, "shows a warning"),
        ({"text": "oh\n", "name": "stderr"}, "wrote to stderr: oh"),
        ({"text": "x" * build.LARGEST}, "bytes, more than 1,500,000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_notebook_must_not_hold_is_named(pair, change, said):
    pair(**change)
    assert any(said in fault for fault in build.faults("one"))


def test_a_stale_output_and_a_changed_cell_are_seen(pair):
    source, notebook = pair()
    text = notebook.read_text(encoding="utf-8")
    notebook.write_text(text.replace('"1\\n"', '"2\\n"'), encoding="utf-8")
    assert any("are not those of its code" in fault for fault in build.faults("one"))
    notebook.write_text(text, encoding="utf-8")
    assert list(build.faults("one")) == []
    source.write_text(source.read_text(encoding="utf-8").replace("print(1)", "print(2)"), encoding="utf-8")
    faults = " ".join(build.faults("one"))
    assert "have different cells" in faults and "are not those of its code" in faults


def test_a_new_address_needs_no_build(pair, monkeypatch, tmp_path):
    source, _ = pair()
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    address = "https://github.com/somebody/mixlm"
    text = text.replace("[project.urls]", f'[project.urls]\nRepository = "{address}"')
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    assert any("--heads" in fault for fault in build.faults("one"))
    build.rewrite_head("one")
    assert list(build.faults("one")) == []
    text = source.read_text(encoding="utf-8")
    assert f'published, here, has = "{address}"' in text
    assert "com/github/somebody/mixlm/blob/main/notebooks/one.ipynb)" in text and "Upload" not in text


def test_mixlm_asks_for_nothing_that_colab_has_in_another_version():
    # What other packages ask for in turn, pip alone can tell: .ci/colab.py.
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = (ROOT / "tests" / "notebooks" / "colab.txt").read_text(encoding="utf-8")
    has = {name.lower(): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", listed, re.M)}
    asked = map(requirements.Requirement, project["dependencies"] + project["optional-dependencies"]["report"])
    found = [(each, has[each.name]) for each in asked if each.name in has]
    assert {"jax", "tensorflow", "numpy", "plotly"} <= {each.name for each, _ in found}
    assert [f"{each}, and Colab has {version}" for each, version in found if version not in each.specifier] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", build.names())
def test_a_notebook_runs_with_warnings_as_errors(name, tmp_path, monkeypatch):
    # The tests' eight virtual devices would cut small batches.
    flags = [flag for flag in build.os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    monkeypatch.setenv("XLA_FLAGS", " ".join(flags))
    made = build.normal(build.execute(build.read_source(name), tmp_path, fast=True))
    assert [fault for cell in made.cells for fault in build._faults_of_cell(name, cell)] == []
