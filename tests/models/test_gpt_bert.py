"""GPT-BERT agrees with the formulas of its release, in NumPy, under every mask; its sizes are the release's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict
from support.numpy_bert import gpt_bert_weights, slow_gpt_bert

from mixlm.checkpoints.from_torch import gpt_bert_params
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models.gpt_bert import DepthWeightedAverage, GPTBert
from mixlm.models.layer_stack import Execution

# Rows are longer than `max_position`, and the last two distances differ.
NETWORK = GPTBert(
    vocab_size=40, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_layers=2, num_buckets=8, max_position=6
)
WEIGHTS = gpt_bert_weights(40, 16, 24, 2, 8)
LENGTH = 11
# Compiling is most of the time here, and these few numbers need no optimised code.
QUICK = {"xla_backend_optimization_level": 0}


@partial(jax.jit, compiler_options=QUICK)
def found(params, example):
    hidden = NETWORK.apply({"params": params}, example, method="hidden")
    return hidden, NETWORK.apply({"params": params}, hidden, method="logits")


@pytest.mark.parametrize("prefix", [0, 4, LENGTH], ids=["causal", "prefix", "bidirectional"])
def test_hidden_states_and_logits_are_those_of_the_releases_formulas(prefix):
    """Two packed documents and two places of padding in one row, and places further apart than the rows reach."""
    tokens, index = np.random.default_rng(prefix).integers(1, 40, (2, LENGTH)), np.arange(LENGTH)
    segments = np.array([[1] * 6 + [2] * 3 + [0] * 2, [1] * LENGTH])
    positions = np.stack([np.concatenate([index[:6], index[:5]]), index * 2])
    example = Example(
        decoder_input_tokens=jnp.asarray(tokens, jnp.int32),
        decoder_target_tokens=jnp.asarray(tokens, jnp.int32),
        decoder_loss_weights=jnp.ones(tokens.shape),
        decoder_mask_ar=jnp.broadcast_to(jnp.asarray(index >= prefix, jnp.int32), tokens.shape),
        decoder_segment_ids=jnp.asarray(segments, jnp.int32),
        decoder_positions=jnp.asarray(positions, jnp.int32),
    )
    hidden, logits = found(gpt_bert_params(WEIGHTS), example)
    assert hidden.dtype == logits.dtype == jnp.float32
    sees = (index[None, :] <= index[:, None]) | ((index[None, :] < prefix) & (index[:, None] < prefix))
    for row in range(2):
        read = segments[row] > 0
        within = (sees & (segments[row][:, None] == segments[row][None, :]))[read][:, read]
        expected = slow_gpt_bert(WEIGHTS, tokens[row][read], positions[row][read], within, 2, 8, 6)
        for ours, theirs in zip((hidden, logits), expected):
            np.testing.assert_allclose(ours[row][read], theirs, atol=1e-5, rtol=1e-5)


def test_an_average_starts_as_its_last_output():
    """So that an untrained network is one with residual connections alone."""
    outputs = tuple(jnp.asarray(np.random.default_rng(seed).normal(size=(1, 2, 4)), jnp.float32) for seed in range(3))
    average, params = DepthWeightedAverage().init_with_output(jax.random.key(0), outputs)
    np.testing.assert_array_equal(average, outputs[-1])
    np.testing.assert_array_equal(meta.unbox(params)["params"]["weights"], [0, 0, 1])


def test_layers_hold_the_releases_parameters_and_one_weight_for_each_output_so_far():
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), *NETWORK.inputs())["params"]
    sizes = {name: leaf.shape for name, leaf in flatten_dict(meta.unbox(shapes), sep="/").items()}
    weights = [sizes[f"layers_{layer}/{part}_average/weights"] for layer in (0, 1) for part in ("attention", "mlp")]
    assert weights == [(2,), (3,), (4,), (5,)]
    assert "layers_0/self_attention/gate/kernel" in sizes
    assert not [name for name in sizes if "post_layer_norm" in name]


def test_layers_are_no_loop():
    with pytest.raises(UserError, match=r"^SCAN_LAYERS = True is not for GPTBert, .* --gin.SCAN_LAYERS=False.$"):
        NETWORK.clone(execution=Execution(scan=True))
