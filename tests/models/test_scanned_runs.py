"""Scanned and unrolled networks train alike, and load and warm-start from each other."""

import jax
import numpy as np
import pytest
from support.decoder_runs import recipe
from support.runs import DEVICES, SIZE, begun, final_state, lines

from mixlm.checkpoints.load import load_params
from mixlm.errors import UserError
from mixlm.models.layer_stack import Execution
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.optimizer import Optimizer
from mixlm.params import stack_layers, unstack_layers
from mixlm.schedules import Constant
from mixlm.training import run as loop

# Adafactor's steps depend on the size of a whole array.
OPTIMIZER = Optimizer(Adafactor(min_dim_size_to_factor=8), Constant(0.02))
PLAIN = DecoderOnly(**SIZE, num_layers=2)
SCANNED = PLAIN.clone(execution=Execution(scan=True, remat="nothing_saveable"))


def made(corpus, folder, network, **changes):
    return recipe(corpus, folder, networks={"model": network}, optimizer=OPTIMIZER, **changes)


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """The same run twice: its layers one by one, and scanned."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: DEVICES[:1])
        patch.setattr(loop, "finish", lambda prepared, folder, state, say: folder.curves.touch())
        found = made(corpus, place / "plain", PLAIN), made(corpus, place / "scanned", SCANNED)
        for run in found:
            loop.train(run, lambda _: None)
        yield found


def params_of(run):
    return final_state(run)[1].params["model"]


def equal(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_scanned_and_unrolled_runs_have_the_same_losses(runs):
    plain, scanned = runs
    for ours, theirs in zip(lines(scanned), lines(plain), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if "flops" not in name:  # of which recomputed layers have more
                same = value if isinstance(value, str) else pytest.approx(value, rel=1e-4)
                assert theirs[name] == same, name
    wanted = params_of(plain)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # noqa: E731
    jax.tree.map(close, unstack_layers(params_of(scanned)), wanted)


def test_warm_starts_work_between_scanned_and_unrolled_runs(runs, corpus, tmp_path):
    plain, scanned = runs
    _, state = begun(made(corpus, tmp_path / "x", SCANNED, init_from=str(plain.folder)))
    equal(state.params["model"], jax.tree.map(np.asarray, stack_layers(params_of(plain))))
    _, state = begun(made(corpus, tmp_path / "x", PLAIN, init_from=str(scanned.folder)))
    equal(state.params["model"], unstack_layers(params_of(scanned)))


def test_scanned_and_unrolled_networks_load_each_others_parameters(runs, corpus):
    plain, scanned = runs
    equal(load_params(made(corpus, plain.folder, SCANNED))[1]["model"], stack_layers(params_of(plain)))
    equal(load_params(made(corpus, scanned.folder, PLAIN))[1]["model"], unstack_layers(params_of(scanned)))


def test_a_resume_with_another_parameter_layout_is_refused(runs, corpus, tmp_path):
    plain, scanned = runs
    for run, network in ((plain, SCANNED), (scanned, PLAIN)):
        with pytest.raises(
            UserError, match=r"holds another run, with scan_layers (none|model) instead of (model|none);"
        ):
            loop.train(made(corpus, run.folder, network), lambda _: None)
        longer = made(corpus, tmp_path / "x", network, init_from=str(run.folder), init_optimizer=True, train_steps=5)
        with pytest.raises(UserError, match=r"^INIT_OPTIMIZER goes on .* other SCAN_LAYERS: give"):
            begun(longer)


def test_remat_and_attention_are_not_part_of_a_runs_identity(runs, corpus):
    plain, scanned = runs
    other = PLAIN.clone(execution=Execution(remat="dots_saveable", attention="plain"))
    assert made(corpus, plain.folder, other).identity() == plain.identity()
    assert "scan_layers" not in plain.identity() and scanned.identity()["networks"] == plain.identity()["networks"]
