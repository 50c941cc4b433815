"""T5's networks agree with T5X and with a network in NumPy; every network respects its mask."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta
from flax.traverse_util import flatten_dict
from hypothesis import example as case
from hypothesis import given, settings
from hypothesis import strategies as st
from support.places import GOLDEN
from support.relative_buckets import slow_bucket

from mixlm.checkpoints.from_t5x import params_from_flat
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models import layers
from mixlm.models.gpt_bert import GPTBert
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly

TINY = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64}
T5_1_1 = EncoderDecoder(**TINY, num_encoder_layers=2, num_decoder_layers=2)
T5_1_0 = EncoderDecoder(
    **TINY, num_encoder_layers=2, num_decoder_layers=2, mlp_activations=("relu",), logits_via_embedding=True
)
CAUSAL = DecoderOnly(**TINY, num_layers=2, logits_via_embedding=True, bidirectional_bias=False)
UNTIED = DecoderOnly(**TINY, num_layers=2)  # with bidirectional buckets, which is ours
LLAMA = Llama(**TINY, num_layers=2, logits_via_embedding=True)
DUAL = Llama(**TINY, num_layers=2, rope_theta=160000.0, epsilon=1e-7, projection_head=True, init_std=None)
LTG_BERT = LTGBert(**TINY, num_layers=2, num_buckets=8)
GPT_BERT = GPTBert(**TINY, num_layers=2, num_buckets=8)
NETWORKS = {
    "encoder-decoder": T5_1_1,
    "decoder-only": UNTIED,
    "llama": LLAMA,
    "dual": DUAL,
    "ltg_bert": LTG_BERT,
    "gpt_bert": GPT_BERT,
}
ANY_NETWORK = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())


def example_of(decoder, encoder=None, mask_ar=None, **more):
    decoder = jnp.asarray(decoder)
    return Example(
        decoder_input_tokens=decoder,
        decoder_target_tokens=decoder,
        decoder_loss_weights=jnp.ones(decoder.shape),
        decoder_mask_ar=jnp.ones_like(decoder) if mask_ar is None else jnp.asarray(mask_ar),
        encoder_input_tokens=None if encoder is None else jnp.asarray(encoder),
        **{name: jnp.asarray(value) for name, value in more.items()},
    )


def tokens(seed, *shape):
    return np.random.default_rng(seed).integers(1, 96, shape).astype(np.int32)


def parameters(network, seed=0):
    """Parameters for short rows, with norms' scales away from one, so that leaving one out shows."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), example_of(tokens(0, 1, 4), tokens(0, 1, 4)))["params"]
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "scale" in name:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        width = 1.0 if "embedd" in name else leaf.shape[0] ** -0.5
        width *= 0.5 if "query" in name else 1.0  # scores are unscaled, and sharp ones would blow up rounding
        return (rng.normal(size=leaf.shape) * width).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, meta.unbox(shapes))


PARAMS = {network: parameters(network) for network in (T5_1_0, CAUSAL, *NETWORKS.values())}


# Compiling is most of the time here, and these few numbers need no optimised code.
QUICK = {"xla_backend_optimization_level": 0}


@partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def apply(network, method, params, inputs, key):
    return network.apply({"params": params}, *inputs, method=method, rngs=None if key is None else {"dropout": key})


def call(network, method, *inputs, key=None, like=None):
    """`network`'s method on its own fixed parameters, or on those of the network `like` with the same tree."""
    return apply(network, method, PARAMS[like or network], inputs, key)


def apply_hidden(network, example):
    return call(network, "hidden", example)


def apply_logits(network, example):
    return call(network, "__call__", example)


# T5X's figures.


@pytest.mark.parametrize("name, network", [("t5x_encdec_v11", T5_1_1), ("t5x_decoder_causal", CAUSAL)])
def test_logits_loss_and_every_gradient_are_t5x(name, network):
    with np.load(GOLDEN / f"{name}.npz") as file:
        figures = dict(file)
    batch = {key.removeprefix("batch/"): jnp.asarray(value) for key, value in figures.items() if "batch/" in key}
    example = Example(**batch, decoder_mask_ar=jnp.ones_like(batch["decoder_target_tokens"]))

    def loss(params):
        logits = network.apply({"params": params}, example)
        log_z = jax.scipy.special.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, batch["decoder_target_tokens"][..., None], axis=-1)[..., 0]
        return jnp.sum((log_z - picked + 1e-4 * log_z**2) * batch["decoder_loss_weights"]), logits

    (value, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)(
        params_from_flat(figures)
    )
    np.testing.assert_allclose(logits, figures["logits"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(value, figures["loss"], rtol=1e-6)
    grads = flatten_dict(grads, sep="/")
    expected = {key.removeprefix("grads/"): value for key, value in figures.items() if key.startswith("grads/")}
    assert grads.keys() == expected.keys()
    for key, grad in grads.items():
        np.testing.assert_allclose(grad, expected[key], atol=1e-5, rtol=1e-5, err_msg=key)


# A slow network in float64, one document at a time, straight from the papers' words.


def slow_norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def slow_attention(params, x, memory, sees, bias):
    out = np.zeros_like(x)
    q, k, v = (y @ np.float64(params[n]["kernel"]) for n, y in (("query", x), ("key", memory), ("value", memory)))
    mixed = np.zeros_like(q)
    for head in range(4):
        part = slice(8 * head, 8 * head + 8)
        for t in range(len(x)):
            seen = [s for s in range(len(memory)) if sees(t, s)]
            scores = np.array([q[t, part] @ k[s, part] + bias(head, t, s) for s in seen])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            mixed[t, part] = sum(w * v[s, part] for w, s in zip(weights, seen))
    out = mixed @ np.float64(params["out"]["kernel"])
    return out


def slow_mlp(params, x):
    if "wi" in params:
        inner = np.maximum(x @ np.float64(params["wi"]["kernel"]), 0)
    else:
        a = x @ np.float64(params["wi_0"]["kernel"])
        gelu = 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
        inner = gelu * (x @ np.float64(params["wi_1"]["kernel"]))
    return inner @ np.float64(params["wo"]["kernel"])


def slow_stack(params, final, x, sees, bidirectional, memory=None):
    table = np.float64(params["relpos_bias"]["rel_embedding"])
    prefix = "pre_attention" if "pre_attention_layer_norm" in params["layers_0"] else "pre_self_attention"

    def bias(head, t, s):
        return table[head, slow_bucket(s - t, bidirectional)]

    for index in range(2):
        layer = params[f"layers_{index}"]
        y = slow_norm(x, layer[f"{prefix}_layer_norm"]["scale"])
        x = x + slow_attention(
            layer["attention" if memory is None and "attention" in layer else "self_attention"], y, y, sees, bias
        )
        if memory is not None:
            y = slow_norm(x, layer["pre_cross_attention_layer_norm"]["scale"])
            x = x + slow_attention(
                layer["encoder_decoder_attention"], y, memory, lambda t, s: True, lambda h, t, s: 0.0
            )
        x = x + slow_mlp(layer["mlp"], slow_norm(x, layer["pre_mlp_layer_norm"]["scale"]))
    return slow_norm(x, params[final]["scale"])


def slow_logits(network, decoder, encoder=None, prefix=0):
    """The logits of one document without padding, whose first `prefix` decoder tokens see each other."""
    params = PARAMS[network]
    table = np.float64((params if encoder is not None else params["decoder"])["token_embedder"]["embedding"])

    def sees(t, s):
        return s <= t or (t < prefix and s < prefix)

    memory = None
    if encoder is not None:
        memory = slow_stack(params["encoder"], "encoder_norm", table[encoder], lambda t, s: True, True)
    bidirectional = encoder is None and network.bidirectional_bias
    hidden = slow_stack(params["decoder"], "decoder_norm", table[decoder], sees, bidirectional, memory)
    if network.logits_via_embedding:
        return hidden @ table.T / np.sqrt(32)
    return hidden @ np.float64(params["decoder"]["logits_dense"]["kernel"])


@pytest.mark.parametrize("network", [T5_1_0, T5_1_1, CAUSAL, UNTIED], ids=["t5_1_0", "t5_1_1", "causal", "untied"])
@pytest.mark.parametrize("prefix", [0, 5])
def test_padded_rows_with_and_without_prefix_agree_with_numpy(network, prefix):
    encoder = tokens(1, 2, 11) if isinstance(network, EncoderDecoder) else None
    decoder = tokens(2, 2, 9)
    if encoder is not None:
        encoder[1, 6:] = 0
    decoder[1, 7:] = 0
    mask_ar = np.ones_like(decoder)
    mask_ar[:, :prefix] = 0
    logits = apply_logits(network, example_of(decoder, encoder, mask_ar))
    assert logits.dtype == jnp.float32
    for row, length in enumerate((9, 7)):
        source = None if encoder is None else encoder[row][encoder[row] > 0]
        expected = slow_logits(network, decoder[row, :length], source, prefix)
        np.testing.assert_allclose(logits[row, :length], expected, atol=1e-5, rtol=1e-5)


def packed(prefixes, decoder_lengths, encoder_lengths, with_positions, seed=3):
    """A row of documents with the given lengths and prefixes and two places of padding, and the documents."""
    rng = np.random.default_rng(seed)
    documents = [
        (rng.integers(1, 96, t).astype(np.int32), rng.integers(1, 96, s).astype(np.int32), prefix)
        for t, s, prefix in zip(decoder_lengths, encoder_lengths, prefixes)
    ]

    def join(parts):
        return np.concatenate([*parts, np.zeros(2)]).astype(np.int32)[None]

    fields = {}
    for side, of_side in (("decoder", 0), ("encoder", 1)):
        lengths = [len(document[of_side]) for document in documents]
        fields[f"{side}_segment_ids"] = join([np.full(n, i + 1) for i, n in enumerate(lengths)])
        if with_positions:
            fields[f"{side}_positions"] = join([np.arange(n) for n in lengths])
    mask_ar = join([np.arange(len(decoder)) >= prefix for decoder, _, prefix in documents])
    decoder, encoder = join([d[0] for d in documents]), join([d[1] for d in documents])
    return documents, {"decoder": decoder, "encoder": encoder, "mask_ar": mask_ar, **fields}


@pytest.mark.parametrize("with_positions", [False, True])
@pytest.mark.parametrize("network", [T5_1_0, UNTIED], ids=["encoder-decoder", "decoder-only"])
def test_packed_documents_agree_with_the_documents_alone(network, with_positions):
    documents, fields = packed((0, 3, 1), (4, 6, 5), (7, 3, 5), with_positions)
    seq2seq = isinstance(network, EncoderDecoder)
    if not seq2seq:
        fields = {name: value for name, value in fields.items() if "encoder" not in name}
    hidden = apply_hidden(network, example_of(**fields))
    logits = call(network, "logits", hidden)
    start = 0
    for decoder, encoder, prefix in documents:
        part = slice(start, start := start + len(decoder))
        mask_ar = (np.arange(6) >= prefix).astype(np.int32)[None]
        row, source = (np.pad(side, (0, n - len(side)))[None] for side, n in ((decoder, 6), (encoder, 7)))
        alone = apply_hidden(network, example_of(row, source if seq2seq else None, mask_ar))
        np.testing.assert_allclose(hidden[0, part], alone[0, : len(decoder)], atol=1e-5, rtol=0)
        expected = slow_logits(network, decoder, encoder if seq2seq else None, prefix)
        np.testing.assert_allclose(logits[0, part], expected, atol=1e-5, rtol=1e-5)


# Who may see whom.


@ANY_NETWORK
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    place=st.integers(0, 11),
    prefix=st.integers(0, 12),
    second=st.integers(1, 12),
    padding=st.integers(0, 3),
)
@case(seed=0, place=7, prefix=0, second=12, padding=0)  # causal
@case(seed=0, place=7, prefix=12, second=12, padding=0)  # bidirectional
@case(seed=0, place=7, prefix=5, second=12, padding=0)  # after the prefix
@case(seed=0, place=3, prefix=5, second=12, padding=0)  # in the prefix
@case(seed=0, place=3, prefix=12, second=4, padding=2)  # packed
def test_a_changed_token_moves_exactly_the_positions_that_attend_to_it(network, seed, place, prefix, second, padding):
    """Causal, prefix and bidirectional masks over one or two documents and padding, in one compiled network."""
    index, row = np.arange(12), tokens(seed, 1, 12)
    changed = row.copy()
    changed[0, place] = row[0, place] % 95 + 1
    segments = np.where(index >= 12 - padding, 0, 1 + (index >= second))
    mask_ar = (index >= prefix).astype(np.int32)[None]
    encoder = tokens(seed + 1, 1, 5) if network is T5_1_1 else None
    fields = {"encoder": encoder, "mask_ar": mask_ar, "decoder_segment_ids": segments[None].astype(np.int32)}
    before, after = (apply_logits(network, example_of(d, **fields)) for d in (row, changed))
    moved = np.abs(before - after).max(axis=-1)[0] > 0
    sees = (index >= place) | ((index < prefix) & (place < prefix))
    read = segments > 0  # what stands in padding sees nobody and is seen by none
    np.testing.assert_array_equal(moved[read], (sees & (segments == segments[place]) & (segments[place] > 0))[read])


def test_the_encoder_is_bidirectional_and_reaches_every_decoder_position():
    encoder = tokens(5, 2, 11)
    changed = encoder.copy()
    changed[:, 10] = encoder[:, 10] % 95 + 1
    first, second = (example_of(tokens(6, 2, 9), e) for e in (encoder, changed))
    for method in ("encode", "hidden"):
        a, b = (call(T5_1_1, method, example) for example in (first, second))
        assert (np.abs(a - b).max(axis=-1) > 0).all()


# Types, dropout, the contract.


@ANY_NETWORK
def test_bfloat16_keeps_parameters_and_logits_in_float32(network):
    rough = network.clone(dtype="bfloat16")
    encoder = tokens(7, 2, 11) if isinstance(network, EncoderDecoder) else None
    example = example_of(tokens(8, 2, 9), encoder)
    initial = jax.eval_shape(rough.init, jax.random.key(0), example)
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    hidden = call(rough, "hidden", example, like=network)
    logits = call(rough, "logits", hidden, like=network)
    exact = apply_logits(network, example)
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    error = np.abs(logits - exact).max() / np.std(exact)
    assert 0 < error < 0.15  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("network", [T5_1_0, UNTIED], ids=["encoder-decoder", "decoder-only"])
def test_dropout_needs_an_rng_and_follows_it(network):
    noisy = network.clone(dropout_rate=0.3)
    encoder = tokens(9, 2, 11) if isinstance(network, EncoderDecoder) else None
    example = example_of(tokens(10, 2, 9), encoder)

    def forward(key):
        return call(noisy, "hidden", example, key=key, like=network)

    quiet = forward(None)
    np.testing.assert_allclose(quiet, apply_hidden(network, example), atol=1e-6)
    first, again, second = (forward(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0.1 and np.abs(first - quiet).max() > 0.1
    # The last dropout stands behind the norm: what it drops, it drops for the whole length.
    dropped = np.asarray(first == 0)
    assert dropped.any() and (dropped == dropped[:, :1]).all()


def test_dropout_preserves_the_mean_and_shares_its_mask_along_the_length():
    noisy = layers.Dropout(0.25).apply({}, jnp.ones((64, 3, 512)), rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(noisy)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (noisy == noisy[:, :1]).all() and not (noisy[:1] == noisy).all()
    # 64 x 512 independent draws: one standard error of the mean is 0.0032.
    np.testing.assert_allclose(noisy.mean(), 1.0, atol=0.016)
    alone = layers.Dropout(0.25, shared=()).apply({}, jnp.ones((64, 3, 512)), rngs={"dropout": jax.random.key(0)})
    assert not (alone == alone[:, :1]).all()


def test_attention_weights_are_dropped_as_well():
    sizes = layers.LayerSizes(emb_dim=32, num_heads=4, head_dim=8, mlp_dim=64, dropout_rate=0.5)
    attention, x = layers.Attention(sizes), jnp.ones((1, 6, 32))
    variables = {"params": PARAMS[T5_1_1]["encoder"]["layers_0"]["attention"]}
    outputs = [
        attention.apply(variables, x, x, jnp.zeros((1, 4, 6, 6)), rngs={"dropout": jax.random.key(seed)})
        for seed in range(2)
    ]
    assert np.abs(outputs[0] - outputs[1]).max() > 0


@ANY_NETWORK
def test_hidden_and_logits_compose_on_any_chunk(network):
    """The head under scan and remat, on one vector, and the whole network row by row under vmap."""
    seq2seq = isinstance(network, EncoderDecoder)
    example = example_of(tokens(12, 2, 9), tokens(11, 2, 11) if seq2seq else None)

    @partial(jax.jit, compiler_options=QUICK)
    def forward(params, hidden):
        def bound(*inputs, method="__call__"):
            return network.apply({"params": params}, *inputs, method=method)

        @jax.checkpoint
        def block(carry, hidden):
            return carry, bound(hidden, method="logits")

        def row(decoder, encoder):
            return bound(example_of(decoder[None], None if encoder is None else encoder[None]))[0]

        return {
            "blocks": jax.lax.scan(block, 0, hidden.reshape(6, 3, 32))[1].reshape(2, 9, 96),
            "vector": bound(hidden[1, 4], method="logits"),
            "rows": jax.vmap(row)(example.decoder_input_tokens, example.encoder_input_tokens),
            "hidden": bound(bound(example, method="encode"), example, method="decode") if seq2seq else hidden,
        }

    hidden, whole = apply_hidden(network, example), apply_logits(network, example)
    found = forward(PARAMS[network], hidden)
    np.testing.assert_allclose(found["blocks"], whole, atol=1e-5)
    np.testing.assert_allclose(found["vector"], whole[1, 4], atol=1e-5)
    np.testing.assert_allclose(found["rows"], whole, atol=1e-5)
    np.testing.assert_allclose(found["hidden"], hidden, atol=1e-5)


@ANY_NETWORK
def test_inputs_initialise_every_parameter(network):
    shapes = jax.eval_shape(network.init, jax.random.key(0), *network.inputs())["params"]
    assert jax.tree.map(jnp.shape, meta.unbox(shapes)) == jax.tree.map(np.shape, PARAMS[network])


def test_networks_are_values():
    again = EncoderDecoder(**TINY, num_encoder_layers=2, num_decoder_layers=2)
    assert again == T5_1_1 and hash(again) == hash(T5_1_1)
    assert again != again.clone(dropout_rate=0.1)


@pytest.mark.parametrize("network", [UNTIED, LLAMA, LTG_BERT], ids=["decoder-only", "llama", "ltg_bert"])
def test_a_token_outside_of_the_vocabulary_gives_nan(network):
    assert np.isnan(apply_hidden(network, example_of(np.full((2, 9), 96, np.int32)))).any()


# Initialisers, logical axes, the mesh.


def test_initialisers_have_t5x_standard_deviations():
    """Normal or truncated, scaled by the fan in; the query's also by 1/sqrt(head_dim); relative bias uniform."""
    network = EncoderDecoder(
        vocab_size=512, emb_dim=256, num_heads=4, head_dim=16, mlp_dim=512, num_encoder_layers=1, num_decoder_layers=1
    )
    example = example_of(tokens(0, 1, 2), tokens(0, 1, 2))
    initial = jax.jit(network.init, compiler_options=QUICK)(jax.random.key(3), example)["params"]
    params = flatten_dict(meta.unbox(initial), sep="/")
    spreads = {"query": (256 * 16) ** -0.5, "key": 1 / 16, "value": 1 / 16, "out": 1 / 8, "wi_0": 1 / 16}
    spreads |= {"wi_1": 1 / 16, "wo": 512**-0.5, "logits_dense": 1 / 16, "token_embedder": 1.0}
    spreads |= {"relpos_bias": (2 / (4 + 32)) ** 0.5}
    for name, value in params.items():
        part = name.split("/")[-2]
        if "scale" in name:
            assert (value == 1).all()
        else:
            # The smallest table has 128 numbers: its spread is known to about 4%.
            np.testing.assert_allclose(
                np.std(value), spreads[part], rtol=0.2 if value.size < 1000 else 0.04, err_msg=name
            )
    truncated = params["decoder/logits_dense/kernel"]
    assert np.abs(truncated).max() < 2.3 * spreads["logits_dense"]
    assert np.abs(params["encoder/layers_0/attention/key/kernel"]).max() > 3 * spreads["key"]


AXES = {
    "query": ("embed", "joined_kv"),
    "key": ("embed", "joined_kv"),
    "value": ("embed", "joined_kv"),
    "out": ("joined_kv", "embed"),
    "wi_0": ("embed", "mlp"),
    "wi_1": ("embed", "mlp"),
    "wo": ("mlp", "embed"),
    "logits_dense": ("embed", "vocab"),
    "token_embedder": ("vocab", "embed"),
    "relpos_bias": ("heads", "relpos_buckets"),
    "relative_embedding": ("relpos_buckets", "embed"),
    "gate": ("embed", "joined_kv"),
    "attention_average": (None,),
    "mlp_average": (None,),
    "projection": ("embed", "mlp"),
    "head_dense": ("embed", "mlp"),
    "logits_bias": ("vocab",),
}


@ANY_NETWORK
def test_every_parameter_carries_t5x_logical_axes(network):
    example = example_of(tokens(0, 1, 2), tokens(0, 1, 2))
    boxed = jax.eval_shape(network.init, jax.random.key(0), example)["params"]
    for name, spec in flatten_dict(nn.get_partition_spec(boxed), sep="/").items():
        part, leaf = f"/{name}".split("/")[-2:]
        axes = ("embed",) if "norm" in part else AXES[part or leaf]
        assert tuple(spec) == (axes[-1:] if leaf == "bias" else axes), name


def test_a_mesh_changes_placement_and_no_value():
    """Two devices for the batch, four for heads, mlp and vocabulary; rules without a mesh do nothing at all."""
    example = example_of(tokens(13, 2, 9), tokens(14, 2, 11))
    expected = apply_logits(T5_1_1, example)
    rules = [("batch", "data"), ("heads", "model"), ("mlp", "model"), ("vocab", "model"), ("joined_kv", "model")]
    rules += [(name, None) for name in ("embed", "length", "kv", "relpos_buckets")]
    mesh = jax.make_mesh((2, 4), ("data", "model"), (jax.sharding.AxisType.Auto,) * 2)
    boxed = jax.eval_shape(T5_1_1.init, jax.random.key(0), example)["params"]
    places = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, rules)

    def lowered(params):
        return jax.jit(lambda params: T5_1_1.apply({"params": params}, example)).lower(params)

    with nn.logical_axis_rules(rules):
        assert "sharding_constraint" not in lowered(PARAMS[T5_1_1]).as_text()
    params = jax.device_put(PARAMS[T5_1_1], places)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        placed = lowered(params)
    assert "sharding_constraint" in placed.as_text()
    np.testing.assert_allclose(placed.compile()(params), expected, atol=1e-5)


# Bad values.


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("mlp_activations", ("gelo", "linear"), "'gelo' is not an activation.*Did you mean 'gelu'"),
        ("mlp_activations", (), "must be a tuple"),
        ("emb_dim", 0, "emb_dim = 0 must be a whole number above zero"),
        ("num_heads", -4, "num_heads = -4"),
        ("vocab_size", 0, "vocab_size = 0"),
        ("dropout_rate", 1.0, "dropout_rate = 1.0 is outside"),
        ("dtype", "bfloat", "dtype = 'bfloat'.*Did you mean 'bfloat16'"),
        ("num_buckets", 30, "num_buckets = 30 must be a multiple of 4"),
        ("max_distance", 8, "max_distance = 8 must be above 8"),
    ],
)
@pytest.mark.parametrize("network", [T5_1_1, UNTIED], ids=["encoder-decoder", "decoder-only"])
def test_bad_values_are_one_sentence(network, field, value, message):
    with pytest.raises(UserError, match=message):
        network.clone(**{field: value})


def test_values_of_the_wrong_type_are_one_sentence():
    for check, value in [
        (layers.check_activations, ["gelu"]),
        (layers.check_activations, "gelu"),
        (layers.check_dtype, 32),
    ]:
        with pytest.raises(UserError):
            check(value)
    for size in (2.0, True, "8"):
        with pytest.raises(UserError, match="emb_dim"):
            layers.check_positive(emb_dim=size)


def test_an_example_without_an_encoder_side_is_refused():
    with pytest.raises(UserError, match="encoder_input_tokens"):
        T5_1_1.apply({"params": PARAMS[T5_1_1]}, example_of(tokens(0, 1, 3)))
