"""A step that does not fit its device ends in one sentence, with the microbatches or the REMAT that would."""

import re
from types import SimpleNamespace

import jax
import pytest
from support.decoder_runs import recipe as decoder_recipe

from mixlm.errors import UserError
from mixlm.training import fit
from mixlm.training.executables import Executables
from mixlm.training.prepare import PreparedRun
from mixlm.training.run import train

GIB = 2**30
OUT = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 68719476736 bytes."


@pytest.fixture
def prepared(corpus, tmp_path, monkeypatch):
    """A step of 8 rows that holds 2 GiB beside 1 GiB for each row of a microbatch, and 0.5 recomputed; nothing runs."""
    made = decoder_recipe(corpus, tmp_path / "run", batch_size=8)
    steps, found = object.__new__(Executables), object.__new__(PreparedRun)
    steps.memory = lambda _: SimpleNamespace(argument_size_in_bytes=GIB, temp_size_in_bytes=9 * GIB)
    layout, shapes = made.partitioning.layout(jax.devices()[:1]), SimpleNamespace(params=None)
    found.__dict__.update(recipe=made, layout=layout, shapes=shapes, train_step=steps)

    def compiled(prepared, objective, way):
        rows = 8 // way.microbatches
        return int(GIB * (2 + rows * (0.5 if way.rematerialised else 1.0)))

    monkeypatch.setattr(fit, "bytes_per_device", lambda shapes: GIB)
    monkeypatch.setattr(fit, "_compiled_bytes", compiled)
    return found


def limited(monkeypatch, gigabytes):
    monkeypatch.setattr(fit, "memory_of", lambda layout: (int(gigabytes * GIB), "each GPU"))


@pytest.mark.parametrize(
    ("limit", "clause"),
    [
        (9.0, "MICROBATCHES = 2 would fit, with 6.0 GiB by the compiler, and so would BATCH_SIZE = 4."),
        (5.0, "MICROBATCHES = 4 would fit, with 4.0 GiB by the compiler, and so would BATCH_SIZE = 2."),
        (3.0, "MICROBATCHES = 8 would fit, with 3.0 GiB by the compiler, and so would BATCH_SIZE = 1."),
        (2.5, "REMAT = 'nothing_saveable' with MICROBATCHES = 8 would fit, with 2.5 GiB by the compiler, and so would"),
        (2.0, "no number of MICROBATCHES would fit, nor REMAT = 'nothing_saveable'; take a smaller network"),
    ],
)
def test_the_fewest_microbatches_that_fit_are_named(prepared, monkeypatch, limit, clause):
    limited(monkeypatch, limit)
    said = rf"The step of causal needs at least 10\.0 GiB and each GPU has {limit} GiB: {re.escape(clause)}"
    with pytest.raises(UserError, match=said) as error:
        fit.check_step(prepared, SimpleNamespace(name="causal"))
    assert "\n" not in str(error.value)


def test_an_allocation_that_fails_names_the_step_and_the_checkpoint(prepared, monkeypatch):
    limited(monkeypatch, 11.0)

    def failing(message):
        with fit.memory_said(prepared, lambda: 2, lambda: "there is no checkpoint yet"):
            raise jax.errors.JaxRuntimeError(message)

    with pytest.raises(UserError) as error:
        failing(OUT)
    assert str(error.value) == (
        f"The memory of each GPU ran out in step 3, where {prepared.recipe.objectives[0].name} holds 10.0 GiB of its "
        "11.0 GiB by the compiler: MICROBATCHES = 2 would fit, with 6.0 GiB by the compiler, and so would "
        "BATCH_SIZE = 4; there is no checkpoint yet."
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        failing("INTERNAL: a kernel failed")


@pytest.mark.slow
def test_what_is_named_fits_and_the_run_goes_on_with_it(corpus, tmp_path, monkeypatch):
    changes = {"batch_size": 64}
    made = decoder_recipe(corpus, tmp_path / "run", **changes)
    measured, seen, limits = fit.step_bytes, [], [None]

    def noted(steps, objective):
        seen.append(measured(steps, objective))
        return seen[-1]

    monkeypatch.setattr(fit, "memory_of", lambda layout: (limits[0], "this device"))
    monkeypatch.setattr(fit, "step_bytes", noted)
    train(made, lambda _: None)
    limits[0] = seen[0] - 1
    with pytest.raises(UserError, match=r"MICROBATCHES = \d+ would fit") as error:
        train(decoder_recipe(corpus, tmp_path / "refused", **changes), lambda _: None)
    assert not (tmp_path / "refused").exists()
    count = int(re.search(r"MICROBATCHES = (\d+)", str(error.value))[1])
    train(decoder_recipe(corpus, tmp_path / "parts", microbatches=count, **changes), lambda _: None)
