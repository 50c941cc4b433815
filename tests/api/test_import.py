"""Importing mixlm is quick, loads nothing heavy, and changes nothing of the process."""

import subprocess
import sys

import pytest

import mixlm

STATE = """
import logging, os, signal, sys, warnings
def state():
    return (
        sys.unraisablehook, sys.excepthook, list(warnings.filters), dict(os.environ), list(sys.path), sys.meta_path[:],
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        [list(logging.getLogger(name).filters) + [logging.getLogger(name).level] for name in (None, "absl", "jax")],
    )
"""


def run(script: str, *flags: str) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, *flags, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_importing_mixlm_loads_nothing_heavy_and_changes_nothing():
    script = (
        STATE
        + """
before = state()
import mixlm
assert state() == before
heavy = {"jax", "flax", "numpy", "gin", "tensorflow", "seqio", "orbax", "matplotlib", "tqdm", "pandas"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
dir(mixlm)
assert "jax" not in sys.modules
"""
    )
    run(script)


def test_importing_mixlm_takes_no_time():
    lines = run("import mixlm", "-X", "importtime").stderr.splitlines()
    [microseconds] = [int(line.split("|")[1]) for line in lines if line.split("|")[-1].strip() == "mixlm"]
    assert microseconds < 300_000


def test_using_it_changes_no_hook_and_no_filter_of_ours():
    """What JAX and other libraries do on their own import is theirs, so the state is taken after theirs."""
    script = (
        STATE
        + """
import jax, flax.linen, optax, gin, sentencepiece, tqdm.auto, jax.experimental.multihost_utils, jaxtyping, grain
before, settings = state(), dict(jax.config.values)
import mixlm
for name in mixlm.__all__:
    getattr(mixlm, name)
recipe = mixlm.load_recipe("dual.gin")
try:
    mixlm.load_recipe("daul.gin")
except mixlm.UserError as error:
    assert "dual.gin" in str(error)
now = state()
for here, there in zip(now, before):
    assert here == there, (here, there)
assert dict(jax.config.values) == settings
"""
    )
    run(script)


def test_what_it_offers_is_listed_and_nothing_else_is_there():
    assert set(mixlm.__all__) <= set(dir(mixlm))
    assert mixlm.UserError.__module__ == "mixlm.errors"
    assert mixlm.__version__.count(".") >= 2
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mixlm.trian  # noqa: B018
