"""The progress bar in a notebook, whose modules are stood in for."""

import sys
import warnings
from types import ModuleType, SimpleNamespace

from mixlm.reports.metrics import in_notebook, progress_bar


def module(name, **content):
    made = ModuleType(name)
    vars(made).update(content)
    return made


def test_a_notebook_without_ipywidgets_has_a_bar_of_text_and_no_warning(monkeypatch, capsys):
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", module("IPython", get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", module("ipykernel.zmqshell"))
    missing = module("tqdm.notebook", IProgress=None, WARN_NOIPYW="IProgress not found. Please update jupyter.")
    monkeypatch.setitem(sys.modules, "tqdm.notebook", missing)
    for name in ("tqdm.auto", "tqdm.autonotebook"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    # tqdm catches its own warning where that is an error, so that it has to be seen as one.
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert in_notebook()
        with progress_bar(total=1) as bar:
            bar.update()
    assert "1/1" in capsys.readouterr().err
    assert [str(each.message) for each in seen] == []
