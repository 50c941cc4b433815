"""All implementations of attention agree in outputs and gradients."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models.attention import dispatch
from mixlm.models.attention.dispatch import (
    AdditiveView,
    CudnnView,
    SplashView,
    attention,
    dropped,
    implementation,
    make_view,
)
from mixlm.models.attention.dot_product import mask_bias
from mixlm.models.attention.masks import AttentionMask, cross_mask, self_mask
from mixlm.models.attention.tpu_splash import block_of, running, to_fetch
from mixlm.models.layer_stack import Execution
from mixlm.models.layers import Dropout, LayerSizes
from mixlm.models.llama import Llama
from mixlm.models.t5 import EncoderDecoder
from mixlm.parallel.logical_axes import laid_out
from mixlm.parallel.mesh import Partitioning
from mixlm.perf.flops import matmul_flops
from mixlm.perf.kernel_proofs import noted

QUICK = {"xla_backend_optimization_level": 0}
ROWS, HEADS, WIDTH, SCALE = 2, 2, 8, 0.3


def documents(draw, length: int) -> tuple[list[int], list[int]]:
    """A row's causal steps and segments: documents, causal, bidirectional or with a prefix, and padding."""
    mask_ar, segments = [], []
    while len(segments) < length and draw(st.integers(0, 5)):
        size = draw(st.integers(1, length - len(segments)))
        prefix = draw(st.sampled_from([0, size, draw(st.integers(0, size))]))
        # A document's first position may open no step: it then joins the block of the document before it.
        mask_ar += [draw(st.integers(0, 1)) if prefix else 1, *[0] * prefix, *[1] * size][:size]
        segments += [1 + max(segments, default=0)] * size
    padding = length - len(segments)
    return mask_ar + [1] * padding, segments + [0] * padding


@st.composite
def batches(draw, length: int):
    """Two rows of documents."""
    rows = [documents(draw, length) for _ in range(ROWS)]
    return jnp.asarray([row[0] for row in rows], jnp.int32), jnp.asarray([row[1] for row in rows], jnp.int32)


@settings(max_examples=60, deadline=None)
@given(batches(12))
def test_no_block_with_a_visible_key_is_skipped(batch):
    reach = self_mask(*batch)
    for row in range(ROWS):
        one = jax.tree.map(lambda x, row=row: x[row], reach)
        runs = np.asarray(running(one, 3, 4))
        seen = np.asarray(reach.dense()[row]).reshape(4, 3, 3, 4).any(axis=(1, 3))
        assert runs.shape == (4, 3) and not np.any(seen & ~runs)
        assert np.all(runs.any(axis=1))
        for axis in (0, 1):
            fetched = np.asarray(to_fetch(jnp.asarray(runs), axis))
            lines, steps = (runs, fetched) if axis == 1 else (runs.T, fetched.T)
            for line, step in zip(lines, steps):
                running_places = np.flatnonzero(line).tolist()
                for place, wanted in enumerate(step.tolist()):
                    later = [p for p in running_places if p >= place]
                    assert wanted == (later[0] if later else running_places[-1] if running_places else 0)


@pytest.mark.parametrize(
    ("mask_ar", "segments", "expected"),
    [
        ([1] * 8, [1] * 8, np.tril(np.ones((4, 4), bool))),
        ([0] * 8, [1] * 8, np.ones((4, 4), bool)),
        ([0, 0, 0, 0, 1, 1, 1, 1], [1] * 8, np.tril(np.ones((4, 4), bool)) | (np.indices((4, 4)).max(axis=0) < 2)),
        ([1] * 8, [1, 1, 2, 2, 2, 2, 3, 3], np.eye(4, dtype=bool) | (np.indices((4, 4)) == [[[2]], [[1]]]).all(axis=0)),
    ],
    ids=["causal", "bidirectional", "prefix", "documents"],
)
def test_blocks_without_a_visible_key_are_skipped(mask_ar, segments, expected):
    reach = jax.tree.map(lambda x: x[0], self_mask(jnp.asarray([mask_ar]), jnp.asarray([segments])))
    np.testing.assert_array_equal(running(reach, 2, 2), expected)


def test_the_largest_block_that_divides_the_padded_length_is_chosen():
    assert [block_of(length) for length in (1, 128, 129, 200, 300, 512, 513, 768, 1024, 2048)] == [
        *(128, 128, 256, 256, 128, 512, 128, 256, 512, 512)
    ]


def drawn(queries: int, keys: int) -> tuple:
    """Queries, keys, values, and what the output is multiplied by."""
    rng = np.random.default_rng(queries)
    shapes = [(ROWS, HEADS, length, WIDTH) for length in (queries, keys, keys)] + [(ROWS, queries, HEADS * WIDTH)]
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


@cache
def read(kind: str, queries: int, keys: int):
    """Compiled: from a reach to what attention reads and its gradients, both at what is no padding."""

    def loss(inputs, reach, weights):
        view = SplashView(reach, interpret=True) if kind == "splash" else mask_bias(reach.dense())
        real = (reach.query_segments > 0)[..., None]
        mixed = jnp.where(real, attention(*inputs, view, scale=SCALE), 0.0)
        return jnp.sum(mixed * weights), mixed

    return jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)


def agree(queries: int, keys: int, reach: AttentionMask):
    *inputs, weights = drawn(queries, keys)
    found, wanted = (read(kind, queries, keys)(tuple(inputs), reach, weights) for kind in ("splash", "plain"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, wanted)


@settings(max_examples=12, deadline=None)
@given(batches(300))
def test_splash_agrees_with_plain_attention_for_any_mask_over_several_blocks(batch):
    """300 positions are three blocks of 128, the last one filled up; the two rows skip different ones."""
    agree(300, 300, self_mask(*batch))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32))
def test_splash_agrees_with_plain_attention_across_two_sequences(seed):
    """Every query that is no padding has a key: a query without any reads nothing that is defined."""
    rng = np.random.default_rng(seed)
    queries, keys = rng.integers(0, 3, (ROWS, 20)), np.sort(rng.integers(0, 3, (ROWS, 150)), axis=1)
    keys[:, :2] = [1, 2]
    agree(20, 150, cross_mask(jnp.asarray(queries), jnp.asarray(keys)))


def test_a_query_without_visible_keys_gives_no_nan():
    *inputs, weights = drawn(20, 150)
    reach = cross_mask(jnp.full((ROWS, 20), 7), jnp.full((ROWS, 150), 1))
    found = read("splash", 20, 150)(tuple(inputs), reach, weights)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_sharded_attention_agrees_with_unsharded():
    mask_ar = jnp.asarray([[1] * 256, [0] * 100 + [1] * 156])
    reach = self_mask(mask_ar, jnp.ones_like(mask_ar))
    *inputs, _ = drawn(256, 256)
    wanted = attention(*inputs, mask_bias(reach.dense()), scale=SCALE)
    layout = Partitioning(data=2, tensor=2, sequence=2).layout()
    with laid_out(layout):
        cut = jax.jit(partial(attention, scale=SCALE), compiler_options=QUICK)
        traced = cut.trace(*inputs, SplashView(reach, interpret=True))
        found = traced.lower().compile()(*inputs, SplashView(reach, interpret=True))
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    # Two products over all rows, heads, queries and keys, on eight devices together.
    assert matmul_flops(traced.jaxpr) == 2 * 2 * ROWS * HEADS * 256 * 256 * WIDTH


def test_dropout_shared_by_queries_can_be_applied_to_values():
    *inputs, _ = drawn(6, 6)
    reach = self_mask(jnp.ones((ROWS, 6), jnp.int32), jnp.ones((ROWS, 6), jnp.int32))

    class Reader(nn.Module):
        way: str

        @nn.compact
        def __call__(self, q, k, v):
            drop, plain = Dropout(0.5), mask_bias(reach.dense())
            if self.way == "values":
                return attention(q, k, dropped(v, drop), plain)
            return attention(
                q, k, v, AdditiveView((plain,), keep=False) if self.way == "recomputed" else plain, drop=drop
            )

    rngs = {"dropout": jax.random.key(2)}
    wanted, whole = (Reader("weights").apply({}, *inputs, rngs=noise) for noise in (rngs, None))
    for way in ("values", "recomputed"):
        np.testing.assert_allclose(Reader(way).apply({}, *inputs, rngs=rngs), wanted, atol=1e-5)
    assert np.abs(wanted - whole).max() > 0.1


def test_cudnn_receives_mask_scale_head_layout_and_even_lengths(monkeypatch):
    """What JAX would hand to cuDNN, computed by XLA, for there is no GPU here."""
    asked, ours = [], jax.nn.dot_product_attention

    def by_xla(*arrays, implementation, **options):
        asked.append((implementation, arrays[0].shape))
        return ours(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    *inputs, _ = drawn(7, 7)
    reach = self_mask(jnp.asarray([[1] * 7, [0, 0, 0, 1, 1, 0, 1]]), jnp.ones((ROWS, 7), jnp.int32))
    found = attention(*inputs, CudnnView(reach.dense()[:, None]), scale=SCALE)
    np.testing.assert_allclose(found, attention(*inputs, mask_bias(reach.dense()), scale=SCALE), atol=1e-5)
    assert asked == [("cudnn", (ROWS, 8, HEADS, WIDTH))]


@pytest.mark.parametrize(("remat", "calls"), [(None, 2), ("dots_and_attention_saveable", 2), ("nothing_saveable", 4)])
def test_cudnns_kernel_runs_again_for_the_gradient_only_where_its_output_is_not_saved(monkeypatch, remat, calls):
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda *_: True)
    monkeypatch.setattr(dispatch, "platform", lambda: "gpu")
    monkeypatch.setattr(dispatch, "how_it_differs", lambda *_: None)
    sizes = {"vocab_size": 96, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16, "dtype": "bfloat16"}
    network = Llama(**sizes, num_layers=2, execution=Execution(remat=remat, attention="cudnn"))
    example = Example(*[jnp.ones((2, 8), jnp.int32)] * 2, jnp.ones((2, 8)), jnp.ones((2, 8), jnp.int32))
    params = jax.eval_shape(network.init, jax.random.key(0), *network.inputs())

    def total(params):
        return jnp.sum(network.apply(params, example, method="hidden").astype(jnp.float32))

    traced = str(jax.make_jaxpr(jax.grad(total))(params))
    assert traced.count("= dot_product_attention_fwd_wrapper[") == calls


TINY = {"vocab_size": 96, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16}
READERS = {
    "llama": Llama(**TINY, num_layers=2),
    "encoder-decoder": EncoderDecoder(**TINY, num_encoder_layers=1, num_decoder_layers=2, dropout_rate=0.3),
}


@pytest.mark.parametrize("name", ["llama", pytest.param("encoder-decoder", marks=pytest.mark.slow)])
def test_a_network_agrees_with_itself_under_splash(name):
    tokens = jnp.asarray(np.random.default_rng(0).integers(1, 96, (2, 9)), jnp.int32)
    mask_ar = jnp.asarray([[1] * 9, [0] * 4 + [1] * 5])
    example = Example(tokens, tokens, jnp.ones((2, 9)), mask_ar, encoder_input_tokens=tokens[:, :5].at[1, 3:].set(0))
    plain = READERS[name]
    params = meta.unbox(plain.init(jax.random.key(0), example))

    def hidden(execution):
        network = plain.clone(execution=execution)
        rngs = {"dropout": jax.random.key(1)}
        run = jax.jit(lambda params: network.apply(params, example, method="hidden", rngs=rngs), compiler_options=QUICK)
        return run(params), "pallas" in str(run.trace(params).jaxpr)

    (wanted, by_kernel), (found, with_kernel) = hidden(Execution()), hidden(Execution(attention="splash"))
    assert with_kernel and not by_kernel
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_auto_depends_on_the_platform_of_the_mesh(monkeypatch):
    ways = {
        (on, dtype): implementation("auto", on, dtype, 64)
        for on in ("cpu", "tpu", "gpu")
        for dtype in ("float32", "bfloat16")
    }
    assert ways == {
        ("cpu", "float32"): "plain",
        ("cpu", "bfloat16"): "plain",
        ("tpu", "float32"): "splash",
        ("tpu", "bfloat16"): "splash",
        ("gpu", "float32"): "plain",
        ("gpu", "bfloat16"): "cudnn",
    }
    assert implementation("auto", "gpu", "bfloat16", 36) == implementation("auto", "gpu", "bfloat16", 264) == "plain"
    reach = self_mask(jnp.ones((1, 3), jnp.int32), jnp.ones((1, 3), jnp.int32))
    sizes = LayerSizes(emb_dim=8, num_heads=1, head_dim=8, mlp_dim=8)
    assert not isinstance(make_view(sizes, reach, "auto"), SplashView | CudnnView)
    monkeypatch.setattr(dispatch, "platform", lambda: "tpu")
    with noted() as asked:
        assert make_view(sizes, reach, "auto") == SplashView(reach, interpret=False)
        assert not isinstance(make_view(sizes, reach, "plain"), SplashView | CudnnView)
    assert list(asked) == ["splash attention, float32, mask, 99 x 99 positions, 1 heads of 8"]


@pytest.mark.parametrize(
    ("way", "on", "dtype", "message"),
    [
        (
            "cudnn",
            "gpu",
            "bfloat16",
            r"^ATTENTION = 'cudnn' needs heads whose width is a multiple of 8 and at most 256, ",
        ),
        ("cudnn", "cpu", "bfloat16", r"^ATTENTION = 'cudnn' needs a GPU, and this program is for a cpu: "),
        ("cudnn", "gpu", "float32", r"^ATTENTION = 'cudnn' needs DTYPE = 'bfloat16', got 'float32': "),
        ("splash", "gpu", "bfloat16", r"^ATTENTION = 'splash' needs a TPU"),
    ],
)
def test_an_unavailable_implementation_is_refused_in_one_sentence(way, on, dtype, message):
    with pytest.raises(UserError, match=message):
        implementation(way, on, dtype, 36)
    with pytest.raises(UserError, match=r"^ATTENTION = 'flsh' is none of auto, plain, recomputed, splash, cudnn\."):
        Execution(attention="flsh")
