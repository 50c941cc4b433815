"""The VMEM-resident TPU kernel agrees with biased attention, gradients included."""

import importlib.util
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.example import Example
from mixlm.models.attention import dispatch
from mixlm.models.attention import tpu_biased as kernel
from mixlm.models.attention.dispatch import VmemView, attention, attention_matmul, make_biased_view
from mixlm.models.attention.dot_product import MASKED
from mixlm.models.attention.masks import AttentionMask, cross_mask
from mixlm.models.attention.tpu_biased import fits, heads_per_program, resident, resident_gradients
from mixlm.models.layer_stack import Execution
from mixlm.models.layers import LayerSizes
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.parallel.logical_axes import laid_out
from mixlm.parallel.mesh import Partitioning
from mixlm.perf.chips import chip
from mixlm.perf.flops import matmul_flops
from mixlm.perf.tpu_topology import topology_devices

ROWS, SCALE = 3, 0.5
QUICK = {"xla_backend_optimization_level": 0}


def plain(q, k, v, bias, seen):
    """The definition, for JAX to differentiate: what is hidden has a score that is far below all others."""
    scores = jnp.einsum("bhtk,bhsk->bhts", q, k) * SCALE + (0.0 if bias is None else bias)
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, MASKED), axis=-1)
    return jnp.einsum("bhts,bhsk->bhtk", weights, v)


def drawn(seed: int, heads: int, queries: int, keys: int, width: int, dtype=jnp.float32):
    """Queries, keys, values, a bias, a reach, and what the output is multiplied by."""
    draw = np.random.default_rng(seed)
    shapes = [(ROWS, heads, length, width) for length in (queries, keys, keys)]
    arrays = [jnp.asarray(draw.normal(size=shape), dtype) for shape in shapes]
    bias = jnp.asarray(draw.normal(size=(1, heads, queries, keys)), jnp.float32)
    reach = AttentionMask(
        jnp.asarray(draw.integers(0, keys, (ROWS, queries)), jnp.int32),
        jnp.asarray(draw.integers(0, 3, (ROWS, queries)), jnp.int32),
        jnp.asarray(draw.integers(0, 3, (ROWS, keys)), jnp.int32),
    )
    return arrays, bias, reach, jnp.asarray(draw.normal(size=shapes[0]), dtype)


def visible(reach: AttentionMask) -> np.ndarray:
    """Who sees whom, number by number."""
    limits, queries, keys = (np.asarray(x).tolist() for x in reach)
    return np.asarray(
        [
            [[s <= limit and own == key > 0 for s, key in enumerate(row)] for limit, own in zip(last, segments)]
            for last, segments, row in zip(limits, queries, keys)
        ]
    )


def slopes(function, arrays, weights):
    def loss(arrays):
        mixed = function(*arrays)
        return jnp.sum((mixed * weights).astype(jnp.float32)), mixed

    return jax.grad(loss, has_aux=True)(arrays)


SHAPES = (
    st.integers(0, 1000),
    st.sampled_from([(1, 8), (3, 8), (4, 64), (2, 128), (3, 64)]),
    st.tuples(st.integers(1, 11), st.integers(1, 11)),
    st.booleans(),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(*SHAPES)
def test_outputs_and_gradients_agree_with_plain_attention(seed, heads, lengths, biased):
    (q, k, v), bias, reach, weights = drawn(seed, heads[0], *lengths, heads[1])
    given_ = (q, k, v, bias) if biased else (q, k, v)

    def mixed(q, k, v, *bias):
        return resident(q, k, v, reach, *bias, scale=SCALE, interpret=True)

    run = jax.jit(partial(slopes, mixed, given_), compiler_options=QUICK)

    # A query that sees nothing attends evenly; of its scores there is no gradient that anything asks for.
    seen = visible(reach)
    real = seen.any(-1)[:, None, :, None]
    wanted = slopes(lambda q, k, v, bias=None: plain(q, k, v, bias, seen), given_, weights * real)
    found = run(weights * real)
    np.testing.assert_allclose(found[1], wanted[1], atol=2e-5, rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), found[0], wanted[0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run(weights)))


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(*SHAPES)
def test_recomputed_output_has_the_same_gradients(seed, heads, lengths, biased):
    (q, k, v), bias, reach, _ = drawn(seed, heads[0], *lengths, heads[1])
    draw = np.random.default_rng(seed)
    out, weights = (
        jnp.asarray(draw.normal(size=s), jnp.float32) for s in ((heads[0] * heads[1], 5), (3, lengths[0], 5))
    )
    given_ = (q, k, v, out, bias) if biased else (q, k, v, out)
    seen = visible(reach)
    # As above: of the scores of a query that sees nothing there is no gradient.
    weights = weights * seen.any(-1)[..., None]

    def again(q, k, v, out, bias=None):
        return attention_matmul(q, k, v, VmemView(reach, bias, recompute=True, interpret=True), out)

    def wanted(q, k, v, out, bias=None):
        return plain(q / SCALE, k, v, bias, seen).swapaxes(1, 2).reshape(3, lengths[0], -1) @ out

    found, expected = (
        jax.jit(partial(slopes, mixed), compiler_options=QUICK)(given_, weights) for mixed in (again, wanted)
    )
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-4, rtol=3e-4), found[0], expected[0])


def test_recomputed_output_is_no_residual():
    (q, k, v), bias, reach, _ = drawn(0, 2, 5, 7, 64)
    out = jnp.ones((128, 3))
    kept = {}
    for again in (False, True):
        view = VmemView(reach, bias, again, interpret=True)
        _, pull = jax.vjp(lambda *x, view=view: attention_matmul(*x[:3], view, x[3]), q, k, v, out)
        kept[again] = sum(leaf.size for leaf in jax.tree.leaves(pull) if hasattr(leaf, "size"))
    assert kept[False] - kept[True] == q.size


def test_several_blocks_of_queries_agree_with_one(monkeypatch):
    (q, k, v), bias, reach, weights = drawn(1, 2, 11, 7, 64)
    whole = slopes(lambda *x: resident(*x[:3], reach, x[3], interpret=True), (q, k, v, bias), weights)
    monkeypatch.setattr(kernel, "QUERIES", 4)
    parts = slopes(lambda *x: resident(*x[:3], reach, x[3], interpret=True), (q, k, v, bias), weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), parts, whole)


def test_bfloat16_stays_near_float32():
    (q, k, v), bias, reach, weights = drawn(2, 2, 9, 9, 64, jnp.bfloat16)
    run = partial(slopes, lambda *x: resident(*x[:3], reach, x[3], scale=0.1, interpret=True))
    found = run((q, k, v, bias), weights)
    wanted = run(jax.tree.map(lambda x: x.astype(jnp.float32), (q, k, v, bias)), weights.astype(jnp.float32))
    assert [x.dtype for x in found[0]] == [jnp.bfloat16] * 3 + [jnp.float32]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        # Two roundings of 2^-9 each, and sums of at most nine such.
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=0.05, atol=0.02 * float(jnp.max(jnp.abs(b)) + 1))


def test_no_residual_has_the_size_of_the_scores():
    (q, k, v), bias, reach, _ = drawn(0, 2, 5, 7, 64)
    _, pull = jax.vjp(lambda *x: resident(*x[:3], reach, x[3], interpret=True), q, k, v, bias)
    kept = [leaf.shape for leaf in jax.tree.leaves(pull) if hasattr(leaf, "shape")]
    assert not [shape for shape in kept if shape[-2:] == (5, 7) and shape != bias.shape]


def test_flops_of_the_kernel_are_counted():
    """Scores and what is mixed; for the gradient the scores again, and two products for each."""
    (q, k, v), bias, reach, weights = drawn(0, 4, 6, 8, 64)
    run = partial(slopes, lambda *x: resident(*x[:3], reach, x[3]))
    assert matmul_flops(jax.make_jaxpr(run)((q, k, v, bias), weights)) == (2 + 5) * 2 * ROWS * 4 * 6 * 8 * 64


def test_under_vmap_each_run_agrees_with_itself_alone():
    (q, k, v), bias, reach, weights = drawn(3, 2, 6, 5, 64)
    biases = jnp.stack([bias, -2 * bias])
    run = partial(slopes, lambda *x: resident(*x[:3], reach, x[3], interpret=True))
    found = jax.vmap(lambda bias: run((q, k, v, bias), weights))(biases)
    for index in range(2):
        one = run((q, k, v, biases[index]), weights)
        jax.tree.map(lambda a, b, index=index: np.testing.assert_allclose(a[index], b, atol=1e-5), found, one)


@pytest.fixture
def on_tpu(monkeypatch):
    """Attention is chosen as on a TPU, and its kernel interpreted and taken to be right."""
    monkeypatch.setattr(dispatch, "platform", lambda: "tpu")
    monkeypatch.setattr(dispatch, "device_kind", lambda: "TPU v5 lite")
    monkeypatch.setattr(dispatch, "how_it_differs", lambda *_: "")
    monkeypatch.setattr(dispatch, "resident", lambda *x, interpret, **options: resident(*x, interpret=True, **options))
    monkeypatch.setattr(dispatch, "resident_gradients", lambda *x, interpret: resident_gradients(*x, interpret=True))
    return monkeypatch


def sized(heads: int, width: int) -> LayerSizes:
    return LayerSizes(emb_dim=8, num_heads=heads, head_dim=width, mlp_dim=8, dtype="bfloat16")


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("partitioning", [Partitioning(data=2, tensor=2, sequence=2), Partitioning(data=8)])
def test_sharded_attention_agrees_with_unsharded(partitioning, again, on_tpu):
    """Eight parts do not divide three rows: they then stay whole."""
    (q, k, v), bias, reach, weights = drawn(4, 4, 16, 12, 64)
    if partitioning.tensor == 2:
        (q, k, v, weights), reach = (jax.tree.map(lambda x: x[:2], part) for part in ((q, k, v, weights), reach))

    out = jnp.asarray(np.random.default_rng(5).normal(size=(256, 256)) / 16, jnp.float32)

    def run(q, k, v, bias):
        view = make_biased_view(sized(4, 64), reach, bias, "auto", again)
        return attention_matmul(q, k, v, view, out) if again else attention(q, k, v, view, scale=SCALE)

    joined = weights.swapaxes(1, 2).reshape(weights.shape[0], 16, -1)
    wanted = slopes(run, (q, k, v, bias), joined)
    with laid_out(partitioning.layout()):
        compiled = jax.jit(partial(slopes, run), compiler_options=QUICK).lower((q, k, v, bias), joined).compile()
    found = compiled((q, k, v, bias), joined)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), found, wanted)


def test_the_bias_gradient_is_all_reduced_once_for_all_layers(on_tpu):
    (q, k, v), bias, reach, _ = drawn(5, 2, 16, 16, 64)
    q, k, v, *reach = (x[:2] for x in (q, k, v, *reach))

    def loss(bias):
        view = make_biased_view(sized(2, 64), AttentionMask(*reach), bias, "auto")
        return sum(jnp.sum(attention(q * layer, k, v, view)) for layer in (1, 2, 3))

    with laid_out(Partitioning(data=2, tensor=1, sequence=4).layout()):
        traced = jax.jit(jax.grad(loss)).trace(bias)
    # Each layer would add up its own, and only a good compiler would make one sum of them.
    assert "psum" not in str(traced.jaxpr) and "shard_map" in str(traced.jaxpr)


def kind(heads: int, width: int, length: int, attention: str = "auto", rows: int = 1, biased: bool = True) -> str:
    bias = jnp.zeros((rows, heads, length, length)) if biased else None
    reach = cross_mask(jnp.ones((2, length), jnp.int32), jnp.ones((2, length), jnp.int32))
    made = jax.eval_shape(lambda: Shown(make_biased_view(sized(heads, width), reach, bias, attention)))
    return type(made.view).__name__


@jax.tree_util.register_static
class Shown:
    """A view that `eval_shape` hands out, its arrays not made."""

    def __init__(self, view):
        self.view = view


def test_auto_takes_the_kernel_on_a_tpu_where_vector_memory_suffices(on_tpu):
    assert kind(12, 64, 512) == kind(12, 64, 1024) == kind(16, 128, 1024) == "VmemView"
    assert kind(12, 64, 114, biased=False) == "VmemView"
    assert kind(12, 64, 4096) == "AdditiveView"
    assert kind(12, 64, 1024, biased=False) == "VmemView" and kind(12, 64, 1025, biased=False) == "SplashView"
    assert kind(12, 64, 512, rows=2) == "AdditiveView", "packed rows have a bias of their own"
    assert kind(12, 64, 512, "recomputed") == kind(12, 64, 512, "plain") == "AdditiveView"
    assert kind(12, 64, 512, "splash", biased=False) == "SplashView"
    on_tpu.setattr(dispatch, "device_kind", lambda: "TPU v4")
    assert kind(12, 64, 512) == "AdditiveView" and kind(12, 64, 128) == "VmemView"
    on_tpu.setattr(dispatch, "device_kind", lambda: "TPU v99")
    assert kind(12, 64, 128) == "AdditiveView"


def test_auto_takes_the_kernel_on_no_other_platform():
    assert kind(12, 64, 16) == kind(12, 64, 16, biased=False) == "AdditiveView"


def test_programs_take_heads_that_fill_whole_lanes():
    assert [heads_per_program(*heads) for heads in [(12, 64), (12, 128), (16, 32), (3, 64), (6, 8), (5, 256)]] == [
        *(2, 1, 4, 3, 6, 1)
    ]


TINY = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64}
NETWORKS = {
    "encoder-decoder": EncoderDecoder(**TINY, num_encoder_layers=2, num_decoder_layers=2, dropout_rate=0.3),
    "decoder-only": DecoderOnly(**TINY, num_layers=2),
}


@pytest.mark.parametrize("name", [pytest.param("encoder-decoder", marks=pytest.mark.slow), "decoder-only"])
def test_a_network_has_the_same_gradients(name, on_tpu):
    draw = np.random.default_rng(0)
    tokens, inputs = (jnp.asarray(draw.integers(1, 96, shape), jnp.int32) for shape in ((2, 9), (2, 6)))
    mask_ar = jnp.asarray([[1] * 9, [0, 0, 0, 1, 1, 0, 1, 1, 1]])
    example = Example(tokens, tokens, jnp.ones((2, 9)), mask_ar, encoder_input_tokens=inputs.at[1, 4:].set(0))
    params = meta.unbox(NETWORKS[name].init(jax.random.key(0), example)["params"])

    def gradient(params, network):
        def loss(params):
            rngs = {"dropout": jax.random.key(1)}
            hidden = network.apply({"params": params}, example, method="hidden", rngs=rngs)
            return jnp.mean(jax.nn.log_softmax(network.apply({"params": params}, hidden, method="logits"))[..., 7] ** 2)

        return jax.grad(loss)(params)

    found, wanted, kept, again = (
        jax.jit(partial(gradient, network=NETWORKS[name].clone(execution=execution)), compiler_options=QUICK)
        for execution in (
            Execution(),
            Execution(attention="recomputed"),
            Execution(remat="dots_and_attention_saveable"),
            Execution(remat="dots_with_no_batch_dims_saveable"),
        )
    )
    assert "pallas" in str(found.trace(params).jaxpr) and "pallas" not in str(wanted.trace(params).jaxpr)
    expected = wanted(params)
    for gradients in (found(params), again(params)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-4, atol=3e-6), gradients, expected)
    # What the policy keeps spares every product, the kernel's too.
    assert matmul_flops(kept.trace(params).jaxpr) == matmul_flops(found.trace(params).jaxpr)
    # What it does not keep of attention takes the gradient one product more.
    more = 2 * 2 * 8 * 4 * (6 * 6 + 9 * 6 + 9 * 9 if name == "encoder-decoder" else 15 * 15) * 2
    assert matmul_flops(again.trace(params).jaxpr) == matmul_flops(found.trace(params).jaxpr) + more


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ,
    reason="the TPU compiler (the tpu extra) is not installed",
)
@pytest.mark.parametrize(
    ("topology", "dtype", "heads", "queries", "keys", "width", "biased", "again"),
    [
        ("v5e:2x2", "bfloat16", 12, 512, 512, 64, True, True),
        ("v5e:2x2", "bfloat16", 12, 512, 512, 64, True, False),
        ("v5e:2x2", "bfloat16", 12, 114, 512, 64, False, True),
        ("v5e:2x2", "bfloat16", 12, 114, 512, 64, False, False),
        ("v5e:2x2", "bfloat16", 3, 70, 33, 8, True, True),
        ("v5p:2x2x1", "bfloat16", 16, 1024, 1024, 128, True, True),
        ("v5p:2x2x1", "bfloat16", 12, 1024, 1024, 64, True, True),
        ("v5e:2x2", "float32", 12, 1024, 1024, 64, True, True),
        ("v5p:2x2x1", "float32", 12, 512, 512, 64, True, True),
    ],
)
def test_the_kernel_compiles_for_tpus(topology, dtype, heads, queries, keys, width, biased, again):
    """With as much vector memory as it asks for."""
    device = topology_devices(topology)[0]
    (q, k, v), bias, reach, weights = drawn(0, heads, queries, keys, width, jnp.dtype(dtype))
    given_ = (q, k, v, bias) if biased else (q, k, v)
    out = jnp.ones((heads * width, 1), dtype)
    put = jax.sharding.SingleDeviceSharding(device)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=put), (given_, weights))

    def mixed(q, k, v, bias=None):
        view = VmemView(reach, bias, again)
        return attention_matmul(q, k, v, view, out)[:, None] if again else resident(q, k, v, reach, bias)

    run = partial(slopes, mixed)
    cost = jax.jit(run).lower(*shapes).compile().cost_analysis()
    assert cost["flops"] >= (2 + 5 + again) * 2 * ROWS * heads * queries * keys * width
    size = jnp.dtype(dtype).itemsize
    assert fits(chip(device.device_kind).vector_memory, heads, queries, keys, width, size, biased=biased)
