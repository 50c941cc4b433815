# ruff: noqa: E402
"""Every test runs with shapes checked, rank promotion forbidden, eight virtual devices, and a cache of its own."""

import os
import random
import tempfile
from pathlib import Path

from support.xla import COMPILE_QUICKLY

FLAGS = ["--xla_force_host_platform_device_count=8"]
FLAGS += [f"--{name}={str(value).lower()}" for name, value in COMPILE_QUICKLY.items()]
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS))
os.environ["JAX_PLATFORMS"] = "cpu"
# One folder for the whole run: jax keeps the place of its compilation cache for good.
_CACHE = tempfile.TemporaryDirectory(prefix="mixlm-tests-")
os.environ["MIXLM_CACHE"] = _CACHE.name
# Runs keep their executables there as well; here every module and every process that a test starts finds them.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(_CACHE.name, "executables"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import typecheck

typecheck.install()

import jax
import pytest
from support.tiers import is_exhaustive

jax.config.update("jax_numpy_rank_promotion", "raise")

SUBJECTS = [
    "the farmer",
    "a sailor",
    "my neighbour",
    "every teacher",
    "the old judge",
    "our captain",
    "no senator",
    "the baker",
]
VERBS = ["sells", "paints", "remembers", "carries", "loses", "describes", "buys", "hides", "finds", "repairs"]
OBJECTS = ["a boat", "the bread", "two letters", "some grain", "the map", "her violin", "an oak table", "his horse"]
PLACES = ["in the harbour", "near the mill", "after the war", "on Sundays", "before dawn", "across the river"]


@pytest.fixture(autouse=True, scope="module")
def no_heap_of_programs():
    """Thousands of programs in memory slow everything down; the next module finds what it shares on the disk."""
    yield
    jax.clear_caches()


# The last to end are short: a worker that takes a long file at the end leaves the other one idle.
LONG = ("docs", "training", "checkpoints", "parallel", "objectives", "models", "data")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Puts long folders first, and marks what is exhaustive as slow before pytest selects by marks."""
    rooms = {room: place for place, room in enumerate(LONG)}
    items.sort(key=lambda item: rooms.get(item.path.parent.name, len(LONG)))
    for item in items:
        if is_exhaustive(item.nodeid):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A folder of forty small documents in a language of a few thousand sentences."""
    folder, draw = tmp_path_factory.mktemp("corpus"), random.Random(0)
    for number in range(40):
        sentences = [
            f"{draw.choice(SUBJECTS).capitalize()} {draw.choice(VERBS)} {draw.choice(OBJECTS)} {draw.choice(PLACES)}."
            for _ in range(120)
        ]
        (folder / f"{number:02}.txt").write_text(" ".join(sentences) + "\n", encoding="utf-8")
    return folder
