"""Grain's log line about worker processes, of which there are none, is left out of its import, and that alone."""

import builtins
import logging

from mixlm.data.loader.quiet_grain import import_grain


def test_grain_says_nothing_of_workers_and_everything_else(monkeypatch):
    absl, imported, said = logging.getLogger("absl"), builtins.__import__, []

    def importing(name, *rest):
        if name == "grain":
            absl.warning("Grain multiprocess worker profiling requires jaxlib extension version 448 or later")
            absl.warning("Failed to load jax profiler")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    monkeypatch.setattr(absl, "handle", lambda record: absl.filter(record) and said.append(record.getMessage()))
    assert import_grain().__name__ == "grain"
    absl.warning("multiprocess worker profiling, said later")
    expected = ["Failed to load jax profiler", "multiprocess worker profiling, said later"]
    assert list(dict.fromkeys(said)) == expected  # Grain imports itself in turn
