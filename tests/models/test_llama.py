"""Llama agrees with Hugging Face's, with the Dual paper's network, and with a network in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from support.places import GOLDEN

from mixlm.checkpoints.from_torch import dual_params, llama_params
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models.llama import Llama
from mixlm.models.rope import rotate, rotation

TINY = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 56, "num_layers": 2}
LLAMA = Llama(**TINY, logits_via_embedding=True)
DUAL = Llama(**TINY, rope_theta=160000.0, epsilon=1e-7, projection_head=True, init_std=None, zero_init=True)
UNTIED = Llama(**{**TINY, "num_heads": 2}, rope_theta=500.0, epsilon=1e-2)  # heads that do not fill the width
TIED_DUAL = DUAL.clone(logits_via_embedding=True)
BOTH = pytest.mark.parametrize("network", [LLAMA, DUAL], ids=["llama", "dual"])
# Compiling is most of the time here, and these few numbers need no optimised code.
QUICK = {"xla_backend_optimization_level": 0}


def figures(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        content = dict(file)
    weights = {key.removeprefix("params/"): content.pop(key) for key in list(content) if key.startswith("params/")}
    return weights, content


def template(network):
    return jax.eval_shape(network.init, jax.random.key(0), *network.inputs())["params"]


def drawn(network, seed=0):
    """Parameters away from zero and one, so that leaving one out shows."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "scale" in name:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        width = 1.0 if "embedding" in name or "bias" in name else leaf.shape[0] ** -0.5
        return (rng.normal(size=leaf.shape) * width).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, meta.unbox(template(network)))


PARAMS = {
    LLAMA: llama_params(figures("llama")[0], template(LLAMA)),
    DUAL: dual_params(figures("dual_causal")[0], template(DUAL)),
    UNTIED: drawn(UNTIED),
    TIED_DUAL: drawn(TIED_DUAL),
}


def example_of(tokens, mask_ar, segments=None, positions=None):
    tokens = jnp.asarray(tokens, jnp.int32)
    return Example(
        decoder_input_tokens=tokens,
        decoder_target_tokens=tokens,
        decoder_loss_weights=jnp.ones(tokens.shape),
        decoder_mask_ar=jnp.broadcast_to(jnp.asarray(mask_ar, jnp.int32), tokens.shape),
        decoder_segment_ids=jnp.ones_like(tokens) if segments is None else jnp.asarray(segments, jnp.int32),
        decoder_positions=None if positions is None else jnp.asarray(positions, jnp.int32),
    )


@partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def apply(network, params, example):
    return network.apply({"params": params}, example)


def logits_of(network, *fields):
    return apply(network, PARAMS[network], example_of(*fields))


# The slow network, in float64, straight from the formulas.


def slow_norm(x, scale, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def slow_turn(vector, position, theta):
    """One head at one position: the pair (i, i + K/2) as a complex number, turned by position * theta^(-2i/K)."""
    half = len(vector) // 2
    pairs = vector[:half] + 1j * vector[half:]
    pairs = pairs * np.exp(1j * position * theta ** (-2 * np.arange(half) / len(vector)))
    return np.concatenate([pairs.real, pairs.imag])


def slow_attention(network, layer, y, positions, sees):
    width, length = network.head_dim, len(y)
    q, k, v = (y @ layer[f"self_attention/{name}/kernel"] for name in ("query", "key", "value"))
    mixed = np.zeros_like(v)
    for head in range(network.num_heads):
        part = slice(width * head, width * (head + 1))
        turned = [slow_turn(k[s, part], positions[s], network.rope_theta) for s in range(length)]
        for t in range(length):
            seen = [s for s in range(length) if sees[t, s]]
            query = slow_turn(q[t, part], positions[t], network.rope_theta)
            scores = np.array([query @ turned[s] for s in seen]) / np.sqrt(width)
            weights = np.exp(scores - scores.max())
            mixed[t, part] = sum(w * v[s, part] for w, s in zip(weights / weights.sum(), seen))
    return mixed @ layer["self_attention/out/kernel"]


def slow_logits(network, tokens, positions, sees):
    """The logits of one row; `sees[t, s]` says whether t sees s."""
    params = {name: np.float64(leaf) for name, leaf in flatten_dict(PARAMS[network], sep="/").items()}
    x = params["token_embedder/embedding"][tokens]
    for index in range(network.num_layers):
        start = f"layers_{index}/"
        layer = {name.removeprefix(start): leaf for name, leaf in params.items() if name.startswith(start)}
        y = slow_norm(x, layer["pre_self_attention_layer_norm/scale"], network.epsilon)
        x = x + slow_attention(network, layer, y, positions, sees)
        y = slow_norm(x, layer["pre_mlp_layer_norm/scale"], network.epsilon)
        gate = y @ layer["mlp/wi_0/kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ layer["mlp/wi_1/kernel"])) @ layer["mlp/wo/kernel"]
    x = slow_norm(x, params["decoder_norm/scale"], network.epsilon)
    if network.projection_head:
        a = x @ params["projection/kernel"]
        x = 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
    tied = network.logits_via_embedding
    logits = x @ (params["token_embedder/embedding"].T if tied else params["logits_dense/kernel"])
    return logits + params["logits_bias/bias"] if network.projection_head else logits


# The originals' figures.


def test_logits_agree_with_hugging_face():
    _, content = figures("llama")
    found = logits_of(LLAMA, content["input_ids"], 1)
    np.testing.assert_allclose(found, content["logits"], atol=1e-5, rtol=0)


def test_logits_are_the_dual_objective_networks_across_documents():
    _, content = figures("dual_causal")
    assert len(np.unique(content["doc_ids"])) > 1
    found = logits_of(DUAL, content["input_ids"], 1, content["doc_ids"] + 1)
    np.testing.assert_allclose(found, content["logits"], atol=1e-5, rtol=0)


@BOTH
def test_the_slow_network_gives_the_originals_figures(network):
    """So that what it says of other masks and options can be believed."""
    _, content = figures("llama" if network is LLAMA else "dual_causal")
    tokens, length = content["input_ids"][1], content["input_ids"].shape[1]
    documents = content.get("doc_ids", np.zeros((2, length)))[1]
    sees = np.tri(length, dtype=bool) & (documents[:, None] == documents[None, :])
    expected = slow_logits(network, tokens, np.arange(length), sees)
    np.testing.assert_allclose(content["logits"][1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prefix", [0, 5, 14], ids=["causal", "prefix", "bidirectional"])
@pytest.mark.parametrize("network", PARAMS, ids=["llama", "dual", "untied", "tied_dual"])
def test_every_mask_over_packed_documents_is_the_slow_networks(network, prefix):
    """Two documents and two places of padding, with positions that start anew and without."""
    rng = np.random.default_rng(prefix)
    tokens, segments = rng.integers(1, 96, (2, 14)), np.array([[1] * 8 + [2] * 4 + [0] * 2, [1] * 14])
    index = np.arange(14)
    positions = np.stack([np.concatenate([index[:8], index[:6]]), index * 3])
    sees = (index[None, :] <= index[:, None]) | ((index[None, :] < prefix) & (index[:, None] < prefix))
    for given_positions in (None, positions):
        found = logits_of(network, tokens, index >= prefix, segments, given_positions)
        assert found.dtype == jnp.float32
        for row in range(2):
            read = segments[row] > 0
            within = sees & (segments[row][:, None] == segments[row][None, :])
            where = (index if given_positions is None else positions[row])[read]
            expected = slow_logits(network, tokens[row][read], where, within[read][:, read])
            np.testing.assert_allclose(found[row][read], expected, atol=2e-5, rtol=1e-5)


# Rotary positions.


@settings(max_examples=10, deadline=None)
@given(shift=st.integers(0, 2000), theta=st.sampled_from([10000.0, 160000.0]), seed=st.integers(0, 99))
def test_rotary_scores_depend_on_distances_and_rotation_keeps_norms(shift, theta, seed):
    rng = np.random.default_rng(seed)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 6, 8)), jnp.float32) for _ in range(2))
    places = jnp.asarray(rng.integers(0, 50, (1, 6)))

    def scores(positions):
        turn = rotation(positions, 8, theta)
        return rotate(q, turn)[0, 0] @ rotate(k, turn)[0, 0].T, rotate(q, turn)

    (before, turned), (after, _) = scores(places), scores(places + shift)
    np.testing.assert_allclose(before, after, atol=2e-3)  # float32 angles of 2,000 are known to 1e-4
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(q, axis=-1), rtol=1e-5)
    distances = np.asarray(places[0])
    slow = [[slow_turn(np.float64(q[0, 0, t]), distances[t] - distances[s], theta) @ k[0, 0, s] for s in range(6)]
            for t in range(6)]  # fmt: skip
    np.testing.assert_allclose(before, slow, atol=1e-4)


def test_rotations_are_computed_in_float32():
    """A position of 300 is none of bfloat16's numbers."""
    x = jnp.ones((1, 1, 1, 8), jnp.bfloat16)
    turned = rotate(x, rotation(jnp.array([[301]]), 8, 10000.0))
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(turned[0, 0, 0]), slow_turn(np.ones(8), 301, 10000.0), atol=0.01)


# Initial parameters.


def initial(network):
    params = jax.jit(network.init, compiler_options=QUICK)(jax.random.key(3), *network.inputs())["params"]
    return flatten_dict(meta.unbox(params), sep="/")


def test_initial_parameters_of_llama_have_one_standard_deviation():
    params = initial(LLAMA.clone(emb_dim=64, mlp_dim=128, init_std=0.01, logits_via_embedding=False))
    for name, value in params.items():
        if "scale" in name:
            assert (value == 1).all()
        else:
            np.testing.assert_allclose(np.std(value), 0.01, rtol=0.06, err_msg=name)
            assert np.abs(value).max() > 0.028, name  # not truncated


def test_initial_parameters_of_the_dual_objective_network():
    """Truncated at two deviations, which leaves 0.8796 of the deviation; the outputs start at zero."""
    params = initial(DUAL.clone(emb_dim=128, mlp_dim=256, vocab_size=512))
    inner, outer = np.sqrt(2 / (5 * 128)), np.sqrt(2 / (128 + 512))
    stds = {"query": inner, "key": inner, "value": inner, "projection": inner}
    stds |= {"token_embedder": outer, "logits_dense": outer}
    for name, value in params.items():
        part = name.split("/")[-2]
        if part in ("out", "wo", "logits_bias"):
            assert (value == 0).all(), name
        elif "scale" in name:
            assert (value == 1).all(), name
        else:
            std = inner * np.sqrt(0.5 / (int(name[7]) + 1)) if part.startswith("wi_") else stds[part]
            np.testing.assert_allclose(np.std(value), 0.8796 * std, rtol=0.03, err_msg=name)
            assert np.abs(value).max() <= 2 * std * (1 + 1e-6), name


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("head_dim", 7, "head_dim = 7 must be even"),
        ("rope_theta", 1.0, "rope_theta = 1.0 must be a number above one"),
        ("epsilon", 0.0, "epsilon = 0.0 must be above zero"),
        ("init_std", -0.1, "init_std = -0.1 must be above zero"),
        ("num_layers", 0, "num_layers = 0 must be a whole number"),
        ("dtype", "float16", "dtype = 'float16'"),
    ],
)
def test_bad_values_are_one_sentence(field, value, message):
    with pytest.raises(UserError, match=message):
        LLAMA.clone(**{field: value})
