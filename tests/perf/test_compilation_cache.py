"""Executables are kept in a folder for as long as is asked, and JAX's settings are left as they were."""

import jax
import jax.numpy as jnp
import pytest

from mixlm.perf import compilation_cache
from mixlm.perf.compilation_cache import SETTINGS, kept_in


def settings():
    return [getattr(jax.config, name) for name in SETTINGS]


def test_executables_are_kept_within_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "MIN_SECONDS", 0.0)
    before = settings()
    jax.jit(lambda x: x + 1)(jnp.zeros(3))
    for name in ("a", "b"):
        with kept_in(tmp_path / name):
            jax.jit(lambda x: x * 3.25)(jnp.zeros(5))
        assert settings() == before
        # The second folder is written too, although JAX had opened the first.
        assert list((tmp_path / name).glob("*-cache"))
        jax.clear_caches()
    jax.jit(lambda x: x * 4.5)(jnp.zeros(7))
    assert len(list(tmp_path.rglob("*lambda*-cache"))) == 2


def test_an_error_restores_the_settings_as_well(tmp_path):
    before = settings()
    with pytest.raises(KeyError), kept_in(tmp_path):
        raise KeyError
    assert settings() == before
