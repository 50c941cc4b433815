"""T5X's trainer is given mixlm's networks and objectives: their loss, their logical axes, and greedy text.

They stand on `Base`, which has what T5X's `BaseTransformerModel` does for a model of its own loss: it keeps what it is
constructed with. test_t5x_installed.py runs T5X itself.
"""

import dataclasses
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import unfreeze
from flax.traverse_util import flatten_dict
from support.decoder_runs import CAUSAL, MASKED, TOKENS, recipe

from mixlm.cli import t5x_steps
from mixlm.errors import UserError
from mixlm.interop.t5x.model import ObjectiveModel, model_class, to_the_right
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.schedules import Linear

PACE = Linear(0.0, 1.0, 9)
# The logical axes that T5X's standard rules have (t5x/partitioning.py).
THEIR_AXES = {
    "abspos_buckets", "batch", "embed", "heads", "joined_kv", "kv", "layers", "length", "mlp", "mlp_activations",
    "relpos_buckets", "stack", "vocab",
}  # fmt: skip


class Base:
    def __init__(self, module, input_vocabulary, output_vocabulary, optimizer_def):
        self.module, self.optimizer_def = module, optimizer_def


class Model(ObjectiveModel, Base):
    pass


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5x")
    return Model(recipe(folder, folder), optimizer_def=None)


@pytest.fixture(scope="module")
def variables(model):
    return unfreeze(jax.jit(model.get_initial_variables, static_argnums=(1,))(jax.random.PRNGKey(3), None))


def batch():
    tokens = np.random.default_rng(0).integers(5, 92, (3, 10)).astype(np.int32)
    tokens[1, 7:] = TOKENS.pad
    inputs = np.concatenate([np.full((3, 1), TOKENS.bos, np.int32), tokens[:, :-1]], axis=1)
    return {"decoder_target_tokens": jnp.asarray(tokens), "decoder_input_tokens": jnp.asarray(inputs)}


def test_the_loss_is_the_mean_of_the_scores(model, variables):
    """Causal: the loss is minus the log-probability of all rows, over their tokens; each by a way of its own."""
    loss, figures = jax.jit(model.loss_fn)(variables["params"], batch(), jax.random.PRNGKey(0))
    scores = jax.jit(model.score_batch)(variables["params"], batch())
    np.testing.assert_allclose(loss, -np.sum(scores) / 27, rtol=1e-5)
    assert float(figures["loss"].compute()) == float(loss) == pytest.approx(float(figures["causal"].compute()))
    assert set(figures) == {"loss", "causal", "causal/accuracy"} and float(figures["causal"].count) == 27


def test_every_parameter_has_logical_axes_that_t5x_has(variables):
    params = flatten_dict(variables["params"])
    axes = flatten_dict(variables["params_axes"])
    assert {(*path[:-1], path[-1].removesuffix("_axes")) for path in axes} == params.keys()
    for path, leaf in params.items():
        names = axes[*path[:-1], f"{path[-1]}_axes"].names
        assert len(names) == leaf.ndim and set(names) <= THEIR_AXES | {None}


@pytest.mark.slow
def test_a_prediction_is_the_likeliest_next_token_of_a_prefix(model, variables):
    """Also of a shorter row, whose prefix is moved to the right, where the new text follows."""
    rows = batch()
    held = jnp.asarray(np.arange(10)[None, :] < np.array([[6], [4], [10]]), jnp.int32)
    found, _ = model.predict_batch_with_aux(variables["params"], rows | {"decoder_causal_attention": held})
    logits = np.asarray(model._compute_logits(variables["params"], rows))[..., : TOKENS.vocab_size]
    np.testing.assert_array_equal(found[:, 0], [logits[row, place].argmax() for row, place in enumerate((5, 3, 9))])
    moved, segments = to_the_right(rows["decoder_input_tokens"], held)
    np.testing.assert_array_equal(moved[1], [0] * 6 + np.asarray(rows["decoder_input_tokens"])[1, :4].tolist())
    np.testing.assert_array_equal(segments.sum(1), [6, 4, 10])
    with pytest.raises(UserError, match="follows encoder_input_tokens or decoder_causal_attention"):
        model.predict_batch_with_aux(variables["params"], rows)


@pytest.mark.slow
def test_noise_is_that_of_the_trainers_key(tmp_path):
    given = recipe(tmp_path, tmp_path, curriculum=Curriculum((Stage(0, CAUSAL), Stage(2, MASKED))))
    made = Model(given, None, stage=1)
    params = made.get_initial_variables(jax.random.PRNGKey(3), None)["params"]
    loss = jax.jit(lambda key: made.loss_fn(params, batch(), key)[0])
    assert loss(jax.random.PRNGKey(1)) == loss(jax.random.key(1)) != loss(jax.random.PRNGKey(2))


def test_what_t5x_cannot_train_is_named(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Paced(type(CAUSAL)):
        pace: Linear = PACE

    with pytest.raises(UserError, match=r"Paced\.pace is a Linear, and T5X tells a loss no step"):
        Model(recipe(tmp_path, tmp_path, curriculum=Curriculum((Stage(0, Paced(TOKENS)),))), None)

    @dataclasses.dataclass(frozen=True)
    class Paired(type(CAUSAL)):
        pairs: ClassVar[bool] = True

    given = recipe(tmp_path, tmp_path)
    object.__setattr__(given, "curriculum", Curriculum((Stage(0, Paired(TOKENS)),)))  # refused for text, too
    with pytest.raises(UserError, match="Paired reads pairs"):
        Model(given, None)


def test_without_t5x_the_command_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "t5x.models", None)
    with pytest.raises(UserError, match="T5X is not installed"):
        model_class()
    monkeypatch.setattr(sys, "argv", ["launch/t5x_steps.py", "--gin_file=dual.gin"])
    with pytest.raises(UserError, match="T5X is not installed"):
        t5x_steps.main()
