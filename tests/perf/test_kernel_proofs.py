"""A kernel is compared once for a device and its versions; only what was right is remembered, by process 0."""

import jax
import pytest

from mixlm.perf import kernel_proofs
from mixlm.perf.compilation_cache import kept_in
from mixlm.perf.kernel_proofs import NAME, difference, forget, noted, settle, told, warn
from mixlm.training import kernels


@pytest.fixture
def compared(tmp_path):
    """A comparison that counts, and says what its list ends with."""
    forget()
    asked = []

    def of(verdict):
        def compare():
            asked.append(verdict)
            return verdict

        return compare

    with kept_in(tmp_path / "executables"):
        yield of, asked, tmp_path / "executables" / NAME
    forget()


def test_what_is_right_is_remembered_on_disk_and_what_differs_is_compared_again(compared, monkeypatch):
    of, asked, path = compared
    for _ in range(2):
        assert difference("a", of("")) == "" and difference("b", of("differs")) == "differs"
    assert asked == ["", "differs"]
    forget()  # another process
    assert difference("a", of("differs")) == "" and difference("b", of("")) == ""
    assert asked == ["", "differs", ""] and path.read_text().count("; cpu; jax ") == 2
    forget()
    monkeypatch.setattr(jax, "__version__", "99.0")
    assert difference("a", of("differs")) == "differs", "it was right with another version"
    forget()
    path.write_text("[")
    assert difference("a", of("")) == "" and len(asked) == 5


def test_an_error_is_a_difference_and_no_cache_is_needed(compared, monkeypatch):
    monkeypatch.setattr(kernel_proofs, "_file", lambda: None)
    assert difference("a", lambda: 1 / 0) == "does not run (ZeroDivisionError: division by zero)"
    assert difference("b", compared[0]("")) == ""


def test_a_warning_is_said_once(capsys):
    forget()
    said = []
    with told(said.append):
        warn("one")
        warn("one")
    warn("two")
    assert said == ["one"] and capsys.readouterr().err == "two\n"


def test_processes_take_the_verdict_of_process_0(compared, monkeypatch):
    of, asked, _ = compared
    order = []

    def step(x, objective):
        assert difference(objective, of("mine")) == ""
        return x

    def broadcast(decide):
        order.append(decide)
        return "of process 0"

    kernels.agree("gpu", step, (1.0,), ("b", "a"))
    assert order == [], "a single process compares where it traces"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(kernels, "broadcast", broadcast)
    kernels.agree("gpu", step, (1.0,), ("b", "a"))
    assert asked == [] and len(order) == 2
    assert difference("a", of("mine")) == difference("b", of("mine")) == "of process 0"
    with noted() as found:
        assert difference("a", of("mine")) == "" and list(found) == ["a"]
    settle("a", "")
    assert difference("a", of("mine")) == ""
