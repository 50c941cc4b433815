"""`attend`, attention with its own gradient, agrees with plain attention whether weights are kept or recomputed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.example import Example
from mixlm.models.attention import dot_product as attention_module
from mixlm.models.attention.dot_product import MASKED, attend
from mixlm.models.attention.masks import AttentionMask
from mixlm.models.layer_stack import Execution
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.perf.flops import matmul_flops

TINY = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64}


def plain(q, k, v, addends, scale):
    """The definition, in float64 by NumPy's own softmax, row by row."""
    q, k, v, *addends = (np.asarray(x, np.float64) for x in (q, k, v, *addends))
    scores = np.einsum("bhtk,bhsk->bhts", q, k) * scale
    for addend in addends:
        # As in float32: a hidden score swallows what it is added to.
        scores = (scores + addend).astype(np.float32).astype(np.float64)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhts,bhsk->bhtk", weights / weights.sum(-1, keepdims=True), v)


def differentiable(q, k, v, addends, scale):
    """The same for JAX to differentiate."""
    scores = jnp.einsum("bhtk,bhsk->bhts", q, k) * scale + sum(
        jnp.broadcast_to(a, (*q.shape[:3], k.shape[2])) for a in addends
    )
    return jnp.einsum("bhts,bhsk->bhtk", jax.nn.softmax(scores, axis=-1), v)


def arguments(seed: int, hidden: float, dtype=jnp.float32):
    draw = np.random.default_rng(seed)
    b, h, t, s, k = 2, 3, 5, 7, 4
    q, keys, v = (jnp.asarray(draw.normal(size=shape), dtype) for shape in ((b, h, t, k), (b, h, s, k), (b, h, s, k)))
    mask = draw.random((b, 1, t, s)) < hidden
    mask[0, 0, 1] = True  # a query that sees nothing
    addends = (
        jnp.where(mask, MASKED, 0.0).astype(jnp.float32),
        jnp.asarray(draw.normal(size=(1, h, t, s)), jnp.float32),
    )
    return (q, keys, v, addends), jnp.asarray(draw.normal(size=(b, h, t, k)), dtype)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.0, 1.0), st.sampled_from([1.0, 0.5]), st.booleans())
def test_outputs_and_gradients_agree_with_plain_attention(seed, hidden, scale, keep):
    given_, weights = arguments(seed, hidden)
    np.testing.assert_allclose(attend(*given_, scale, keep), plain(*given_, scale), rtol=2e-5, atol=2e-6)

    def slopes(function):
        return jax.grad(lambda *x: jnp.sum(function(*x, scale) * weights), argnums=(0, 1, 2, 3))(*given_)

    found, wanted = slopes(partial(keeping, keep)), slopes(differentiable)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, given_)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def keeping(keep, q, k, v, addends, scale):
    return attend(q, k, v, addends, scale, keep)


@pytest.mark.parametrize("on", ["cpu", "tpu"])
def test_compact_and_dense_masks_agree_on_cpu_and_tpu_code_paths(on, monkeypatch):
    (q, k, v, (_, bias)), weights = arguments(5, 0.0)
    segments = jnp.asarray([[1, 1, 2, 2, 0], [1, 1, 1, 1, 1]]), jnp.asarray([[1, 1, 2, 2, 2, 0, 0], [1] * 7])
    reach = AttentionMask(jnp.asarray([[0, 1, 2, 6, 6], [0, 1, 2, 3, 6]]), *segments)
    seen = np.asarray([[[s <= last for s in range(7)] for last in row] for row in np.asarray(reach.limits)])
    seen &= (segments[0][:, :, None] == segments[1][:, None, :]) & (np.asarray(segments[0])[:, :, None] > 0)
    mask = jnp.where(seen, 0.0, MASKED)[:, None].astype(jnp.float32)

    def slopes(function, shown):
        return jax.grad(
            lambda q, k, v, bias: jnp.sum(function(q, k, v, (shown, bias), 0.5) * weights), argnums=(0, 1, 2, 3)
        )(q, k, v, bias)

    wanted = plain(q, k, v, (mask, bias), 0.5), slopes(differentiable, mask)
    monkeypatch.setattr(attention_module, "platform", lambda: on)
    np.testing.assert_allclose(attend(q, k, v, (reach, bias), 0.5), wanted[0], rtol=2e-5, atol=2e-6)
    found = slopes(attend, reach)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted[1])


@pytest.mark.parametrize("keep", [False, True])
def test_bfloat16_stays_near_float32(keep):
    given_, weights = arguments(3, 0.3, jnp.bfloat16)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), given_)

    def slopes(function, of):
        return jax.grad(lambda *x: jnp.sum((function(*x, 1.0) * weights).astype(jnp.float32)), argnums=(0, 1, 2, 3))(
            *of
        )

    found, wanted = slopes(partial(keeping, keep), given_), slopes(differentiable, exact)
    assert [x.dtype for x in jax.tree.leaves(found)] == [x.dtype for x in jax.tree.leaves(given_)]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        # Two roundings of 2^-9 each, and sums of at most ten such.
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=0.05, atol=0.02 * float(jnp.max(jnp.abs(b)) + 1))


NETWORKS = {
    "encoder-decoder": EncoderDecoder(**TINY, num_encoder_layers=2, num_decoder_layers=2),
    "decoder-only": DecoderOnly(**TINY, num_layers=2),
}


def example() -> Example:
    draw = np.random.default_rng(0)
    tokens, inputs = (jnp.asarray(draw.integers(1, 96, shape), jnp.int32) for shape in ((2, 9), (2, 6)))
    segments = jnp.asarray([[1] * 6 + [2] * 3, [1] * 7 + [0] * 2])
    mask_ar = jnp.asarray([[1] * 9, [0, 0, 0, 1, 1, 0, 1, 1, 1]])
    return Example(tokens, tokens, jnp.ones((2, 9)), mask_ar, encoder_input_tokens=inputs, decoder_segment_ids=segments)


def gradient(network):
    def loss(params):
        hidden = network.apply({"params": params}, example(), method="hidden")
        return jnp.mean(jax.nn.log_softmax(network.apply({"params": params}, hidden, method="logits"))[..., 7] ** 2)

    return jax.grad(loss)


@pytest.mark.parametrize("name", ["decoder-only", pytest.param("encoder-decoder", marks=pytest.mark.slow)])
def test_a_network_has_the_same_gradients(name):
    network = NETWORKS[name]
    params = meta.unbox(network.init(jax.random.key(0), example())["params"])
    wanted, *others = (
        jax.jit(gradient(network.clone(execution=execution)))(params)
        for execution in (
            Execution(attention="plain"),
            Execution(attention="recomputed"),
            Execution(attention="recomputed", remat="dots_and_attention_saveable", scan=False),
        )
    )
    for found in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-4, atol=3e-6), found, wanted)


@pytest.mark.slow
def test_the_remat_policy_recomputes_the_scores_alone():
    network = NETWORKS["encoder-decoder"]
    params = meta.unbox(network.init(jax.random.key(0), example())["params"])

    def flops(**execution) -> float:
        return matmul_flops(jax.make_jaxpr(gradient(network.clone(execution=Execution(**execution))))(params))

    scores = 2 * 2 * 4 * 8 * (2 * 6 * 6 + 2 * 9 * 9 + 2 * 9 * 6)  # rows, heads, width, and pairs of each attention
    assert flops(attention="recomputed") == flops(attention="plain") + scores
    assert flops(attention="recomputed", remat="dots_and_attention_saveable") == flops(attention="recomputed")
    assert flops(attention="recomputed", remat="dots_with_no_batch_dims_saveable") > flops(attention="recomputed")


def test_attention_weights_are_no_residuals():
    given_, _ = arguments(0, 0.3)
    _, pull = jax.vjp(lambda *x: attend(*x, 1.0), *given_)
    kept = [leaf.shape for leaf in jax.tree.leaves(pull) if hasattr(leaf, "shape")]
    assert (2, 3, 5, 7) not in kept and (2, 3, 5, 1) in kept


@pytest.mark.slow
def test_both_sides_of_an_encoder_decoder_are_embedded_at_once():
    """The gradient of the table, as large as itself, is made once; the sides apart read the same."""
    network = NETWORKS["encoder-decoder"]
    params = meta.unbox(network.init(jax.random.key(0), example())["params"])

    def hidden(params):
        return jnp.sum(network.apply({"params": params}, example(), method="hidden"))

    def apart(params):
        encoded = network.apply({"params": params}, example(), method="encode")
        return jnp.sum(network.apply({"params": params}, encoded, example(), method="decode"))

    scatters = [str(jax.make_jaxpr(jax.grad(function))(params)).count("scatter-add[") for function in (hidden, apart)]
    assert scatters[0] == scatters[1] - 1
    np.testing.assert_allclose(hidden(params), apart(params), rtol=1e-6)
    found, wanted = (jax.jit(jax.grad(function))(params) for function in (hidden, apart))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-4, atol=3e-6), found, wanted)
