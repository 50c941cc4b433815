"""T5X itself, where it is installed: its trainer takes ten steps, and its checkpointer reads what is exported."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import unfreeze
from support.decoder_runs import TOKENS
from support.decoder_runs import recipe as decoder_recipe
from support.from_outside import run
from support.hf_networks import our_logits, rows
from support.runs import DEVICES

from mixlm.api.run import Run
from mixlm.interop.t5x.export import export
from mixlm.models.t5 import EncoderDecoder
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.optimizer import Optimizer
from mixlm.schedules import Constant
from mixlm.training import run as loop

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SIZE = {"vocab_size": 112, "emb_dim": 160, "num_heads": 4, "head_dim": 40, "mlp_dim": 136}


@pytest.fixture(autouse=True)
def t5x():
    if importlib.util.find_spec("t5x") is None:
        pytest.skip("T5X is not installed; it is on GitHub alone.")
    with jax.numpy_rank_promotion("allow"):  # T5X's networks promote
        yield


def test_ten_steps_of_t5xs_trainer(tmp_path, corpus):
    """In a process of its own with one device, all of which T5X gives to the model's axis on a CPU."""
    asked = ("t5x_steps", "--gin_file=tiny.gin", "--gin.TRAIN_STEPS=10")
    losses = [float(line.rpartition(" ")[2]) for line in run(tmp_path, corpus, {}, asked)[0] if "loss" in line]
    assert len(losses) == 10 and abs(losses[0] - np.log(112)) < 1 and losses[-1] < losses[0]


def test_t5x_reads_what_is_exported(tmp_path, corpus, monkeypatch):
    """Its checkpointer restores parameters and Adafactor's state, and its network gives the same logits."""
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])
    network = EncoderDecoder(**SIZE, num_encoder_layers=1, num_decoder_layers=2)
    made = decoder_recipe(
        corpus,
        tmp_path / "run",
        networks={"model": network},
        curriculum=Curriculum((Stage(0, SpanCorruption(TOKENS)),)),
        lengths={"inputs": 32, "targets": 8},
        optimizer=Optimizer(Adafactor(), Constant(0.01)),
    )
    loop.train(made, lambda line: None)
    trained = Run(tmp_path / "run", made)
    place = export(trained, tmp_path / "out", say=lambda line: None)
    from t5x import adafactor, checkpoints, models
    from t5x.examples.t5 import network as theirs

    held, ours = checkpoints.load_t5x_checkpoint(str(place)), trained.params["model"]
    optimizer = adafactor.Adafactor()
    state = optimizer.create(jax.tree.map(np.zeros_like, ours)).restore_state(held)
    assert int(state.state.step) == 3
    jax.tree.map(np.testing.assert_array_equal, unfreeze(state.target), jax.tree.map(np.asarray, ours))
    kernel = unfreeze(state.state.param_states)["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    assert (kernel.v_row.shape, kernel.v_col.shape, kernel.v.shape) == ((136,), (160,), (1,))
    assert np.min(kernel.v_row) > 0
    sizes = theirs.T5Config(**SIZE, num_encoder_layers=1, num_decoder_layers=2, mlp_activations=("gelu", "linear"))
    model = models.EncoderDecoderModel(theirs.Transformer(sizes), None, None, optimizer)
    batch = {"encoder_input_tokens": rows(2)[:, :30], "decoder_input_tokens": rows(), "decoder_target_tokens": rows()}
    logits = model._compute_logits(state.target, {name: jnp.asarray(value) for name, value in batch.items()})
    np.testing.assert_allclose(our_logits(network, ours, 1), logits, atol=1e-4)
