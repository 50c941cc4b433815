"""LTG-BERT agrees with the original under both masks, and with a network in NumPy under every other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict
from support.numpy_bert import slow_embeddings, slow_halves, slow_head, slow_mixed, slow_mlp, slow_norm, slow_row
from support.places import GOLDEN

from mixlm.checkpoints.from_torch import ltg_bert_params
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.relative_position import log_buckets

NETWORK = LTGBert(vocab_size=96, emb_dim=32, num_heads=4, head_dim=8, mlp_dim=56, num_layers=2, num_buckets=8)
SHORT = NETWORK.clone(max_position=6)  # so that rows are longer, and the last two distances differ
# Compiling is most of the time here, and these few numbers need no optimised code.
QUICK = {"xla_backend_optimization_level": 0}


def figures():
    with np.load(GOLDEN / "ltg_bert.npz") as file:
        content = dict(file)
    weights = {key.removeprefix("params/"): content.pop(key) for key in list(content) if key.startswith("params/")}
    return weights, content


WEIGHTS, CONTENT = figures()
PARAMS = ltg_bert_params(WEIGHTS, jax.eval_shape(NETWORK.init, jax.random.key(0), *NETWORK.inputs())["params"])


def example_of(tokens, mask_ar, segments, positions=None):
    tokens = jnp.asarray(tokens, jnp.int32)
    return Example(
        decoder_input_tokens=tokens,
        decoder_target_tokens=tokens,
        decoder_loss_weights=jnp.ones(tokens.shape),
        decoder_mask_ar=jnp.broadcast_to(jnp.asarray(mask_ar, jnp.int32), tokens.shape),
        decoder_segment_ids=jnp.asarray(segments, jnp.int32),
        decoder_positions=None if positions is None else jnp.asarray(positions, jnp.int32),
    )


@partial(jax.jit, static_argnums=(0, 3), compiler_options=QUICK)
def apply(network, params, example, method="__call__", key=None):
    return network.apply({"params": params}, example, method=method, rngs=None if key is None else {"dropout": key})


# The slow network in float64, from torch's own weights.


def slow_attention(weight, y, relative, positions, sees, far):
    parts = {"qk": slow_halves(y, weight, "in_proj_qk"), "rows": slow_halves(relative, weight, "in_proj_qk")}
    value = y @ weight("in_proj_v.weight").T + weight("in_proj_v.bias")
    mixed = slow_mixed(*parts["qk"], value, *parts["rows"], positions, sees, 4, 8, far)
    out = mixed @ weight("out_proj.weight").T + weight("out_proj.bias")
    return slow_norm(out, 1e-7, weight("post_layer_norm.weight"), weight("post_layer_norm.bias"))


def slow_logits(tokens, positions, sees, far=512):
    """The logits of one row; `sees[t, s]` says whether t sees s."""
    weights = {name: np.float64(value) for name, value in WEIGHTS.items()}
    x, relative = slow_embeddings(weights, tokens, 1e-7)
    for index in range(2):
        start = f"transformer.layers.{index}"
        x = x + slow_attention(
            lambda name, start=start: weights[f"{start}.attention.{name}"],
            slow_norm(x, 1e-7),
            relative,
            positions,
            sees,
            far,
        )
        x = x + slow_mlp(weights, f"{start}.mlp", x, 1e-7)
    return slow_head(weights, x, 1e-7)[1]


# The original's figures.


@pytest.mark.parametrize(("mask_ar", "name"), [(0, "logits_bidirectional"), (1, "logits_causal")])
def test_logits_are_the_originals(mask_ar, name):
    read = ~CONTENT["padding"]
    assert not read.all()
    found = apply(NETWORK, PARAMS, example_of(CONTENT["input_ids"], mask_ar, read))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[read], CONTENT[name][read], atol=1e-5, rtol=0)


def test_the_slow_network_gives_the_originals_figures():
    """So that what it says of other masks and lengths can be believed."""
    for name, sees in (("logits_bidirectional", np.ones((24, 24), bool)), ("logits_causal", np.tri(24, dtype=bool))):
        expected = slow_logits(CONTENT["input_ids"][0], np.arange(24), sees)
        np.testing.assert_allclose(CONTENT[name][0], expected, atol=1e-5, rtol=0)


def test_relative_rows_are_the_originals_table():
    table = WEIGHTS["transformer.layers.0.attention.position_indices"]
    rows = log_buckets(8, 512)
    query, key = np.indices(table.shape)
    np.testing.assert_array_equal(rows[query - key + 511], table)


@pytest.mark.parametrize(("buckets", "far"), [(32, 512), (8, 512), (32, 513), (8, 9), (4, 6), (6, 28)])
def test_relative_rows_are_exact_at_every_distance(buckets, far):
    expected = [slow_row(distance, buckets, far) for distance in range(1 - far, far)]
    np.testing.assert_array_equal(log_buckets(buckets, far), expected)
    assert expected[0] == 0 and expected[-1] == 2 * buckets - 2


@pytest.mark.parametrize("network", [NETWORK, SHORT], ids=["512", "6"])
@pytest.mark.parametrize("prefix", [0, 5, 14], ids=["causal", "prefix", "bidirectional"])
def test_every_mask_over_packed_documents_is_the_slow_networks(network, prefix):
    """Two documents and two places of padding, further apart than `max_position` as well."""
    rng = np.random.default_rng(prefix)
    tokens, segments = rng.integers(1, 96, (2, 14)), np.array([[1] * 8 + [2] * 4 + [0] * 2, [1] * 14])
    index = np.arange(14)
    positions = np.stack([np.concatenate([index[:8], index[:6]]), index * 60])
    sees = (index[None, :] <= index[:, None]) | ((index[None, :] < prefix) & (index[:, None] < prefix))
    for given_positions in (None, positions):
        found = apply(network, PARAMS, example_of(tokens, index >= prefix, segments, given_positions))
        for row in range(2):
            read = segments[row] > 0
            within = sees & (segments[row][:, None] == segments[row][None, :])
            where = (index if given_positions is None else positions[row])[read]
            expected = slow_logits(tokens[row][read], where, within[read][:, read], network.max_position)
            np.testing.assert_allclose(found[row][read], expected, atol=2e-5, rtol=1e-5)


# Initial parameters, dropout, bad values.


def test_initial_parameters_are_the_originals():
    """Truncated at two deviations of sqrt(2/(5D)), the MLP's matrices smaller with depth; biases are zero."""
    network = NETWORK.clone(emb_dim=128, head_dim=32, mlp_dim=256, vocab_size=512, num_layers=3, num_buckets=64)
    params = jax.jit(network.init, compiler_options=QUICK)(jax.random.key(3), *network.inputs())["params"]
    for name, value in flatten_dict(meta.unbox(params), sep="/").items():
        if name.endswith("scale"):
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        else:
            std = np.sqrt(2 / (5 * 128)) * (np.sqrt(0.5 / (int(name[7]) + 1)) if "/mlp/" in name else 1.0)
            np.testing.assert_allclose(np.std(value), 0.8796 * std, rtol=0.03, err_msg=name)
            assert np.abs(value).max() <= 2 * std * (1 + 1e-6), name


def test_dropout_needs_an_rng_and_drops_each_number_on_its_own():
    noisy = NETWORK.clone(dropout_rate=0.3)
    example = example_of(CONTENT["input_ids"], 0, ~CONTENT["padding"])
    quiet = apply(NETWORK, PARAMS, example, "hidden")
    np.testing.assert_array_equal(apply(noisy, PARAMS, example, "hidden"), quiet)
    first, again, second = (apply(noisy, PARAMS, example, "hidden", jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0.1
    # The last dropout stands right before the vocabulary.
    dropped = np.asarray(first == 0)
    assert 0.2 < dropped.mean() < 0.4 and not (dropped == dropped[:, :1]).all()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_buckets", 7, "num_buckets = 7 must be even"),
        ("num_buckets", 2, "num_buckets = 2 must be even and at least 4"),
        ("max_position", 5, "max_position = 5 must be above 5"),
        ("epsilon", 0.0, "epsilon = 0.0 must be above zero"),
        ("dropout_rate", 1.0, "dropout_rate = 1.0 is outside"),
        ("vocab_size", 0, "vocab_size = 0 must be a whole number"),
    ],
)
def test_bad_values_are_one_sentence(field, value, message):
    with pytest.raises(UserError, match=message):
        NETWORK.clone(**{field: value})
