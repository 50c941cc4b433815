"""Decoding in chunks with a KV cache agrees with one forward pass, for every network and mask."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models.gpt_bert import GPTBert
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly

TINY = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64}
NETWORKS = {
    "encoder-decoder": EncoderDecoder(**TINY, num_encoder_layers=1, num_decoder_layers=2),
    # Few buckets and a short reach, so that distances beyond it are met.
    "decoder-only": DecoderOnly(**TINY, num_layers=2, num_buckets=8, max_distance=6),
    "llama": Llama(**TINY, num_layers=2, logits_via_embedding=True),
    "ltg_bert": LTGBert(**TINY, num_layers=2, num_buckets=8, max_position=8),
    "gpt_bert": GPTBert(**TINY, num_layers=2, num_buckets=8, max_position=8),
}
ALL = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
LENGTH = 10
# Compiling is most of the time here, and these few numbers need no optimised code.
QUICK = {"xla_backend_optimization_level": 0}


def drawn(network):
    shapes = jax.eval_shape(network.init, jax.random.key(0), *network.inputs())["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if "scale" in jax.tree_util.keystr(path):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        width = 1.0 if "embedding" in jax.tree_util.keystr(path) else leaf.shape[0] ** -0.5
        return (rng.normal(size=leaf.shape) * width).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, meta.unbox(shapes))


PARAMS = {network: drawn(network) for network in NETWORKS.values()}


@partial(jax.jit, static_argnums=(0, 1), static_argnames="length", compiler_options=QUICK)
def apply(network, method, params, *inputs, **static):
    return network.apply({"params": params}, *inputs, method=method, **static)


def call(network, method, *inputs, **static):
    return apply(network, method, PARAMS[network], *inputs, **static)


def tokens(seed, *shape):
    return np.random.default_rng(seed).integers(1, 96, shape).astype(np.int32)


def example_of(network, decoder, mask_ar, segments, positions=None):
    """With two encoder rows of 6 and 4 tokens where the network has an encoder."""
    encoder = tokens(7, len(decoder), 6)
    encoder[1:, 4:] = 0
    decoder = jnp.asarray(decoder)
    return Example(
        decoder_input_tokens=decoder,
        decoder_target_tokens=jnp.zeros_like(decoder),
        decoder_loss_weights=jnp.zeros(decoder.shape),
        decoder_mask_ar=jnp.asarray(mask_ar, jnp.int32),
        decoder_segment_ids=jnp.asarray(segments, jnp.int32),
        decoder_positions=None if positions is None else jnp.asarray(positions, jnp.int32),
        encoder_input_tokens=jnp.asarray(encoder) if isinstance(network, EncoderDecoder) else None,
    )


def part_of(example, start, end):
    """These places of the decoder's side, and no encoder's."""
    decoder = {
        name: value[:, start:end]
        for name, value in vars(example).items()
        if name.startswith("decoder") and value is not None
    }
    return Example(**decoder)


def in_pieces(network, example, cuts, slots=LENGTH + 2):
    """The hidden states of a row that is read from cut to cut."""
    cache = call(network, "empty_cache", example, length=slots)
    pieces = []
    for start, end in zip([0, *cuts], [*cuts, LENGTH]):
        hidden, cache = call(network, "extend", part_of(example, start, end), cache)
        pieces.append(hidden)
    assert cache.filled == LENGTH
    return np.concatenate(pieces, axis=1), cache


def agree(network, example, cuts):
    """The logits of a row read at once and in pieces, wherever there is something to read."""
    hidden, _ = in_pieces(network, example, cuts)
    found, expected = (call(network, "logits", h) for h in (jnp.asarray(hidden), call(network, "hidden", example)))
    read = np.asarray(example.decoder_segments > 0)
    np.testing.assert_allclose(found[read], expected[read], atol=1e-4, rtol=0)


ONE_BY_ONE = tuple(range(4, LENGTH))


@ALL
@pytest.mark.parametrize("prefix", [0, 4], ids=["causal", "prefix"])
@pytest.mark.parametrize("padded", ["left", "right"])
def test_padded_prompts_then_token_by_token_agree_with_one_forward_pass(network, prefix, padded):
    """Padded on the left, a row needs no positions, for all networks know distances alone; on the right it does."""
    decoder, index = tokens(1, 3, LENGTH), np.arange(LENGTH)
    lengths = np.array([[4], [2], [1]])
    segments = (index >= 4) | (index >= 4 - lengths if padded == "left" else index < lengths)
    positions = None if padded == "left" else np.where(index < 4, index, index - 4 + lengths)
    mask_ar = np.broadcast_to(index >= prefix, decoder.shape)
    example = example_of(network, decoder, mask_ar, segments, positions)
    agree(network, example, ONE_BY_ONE)
    # The padding could have been any tokens, or none at all.
    hidden, _ = in_pieces(network, example, ONE_BY_ONE)
    read = np.flatnonzero(segments[2])
    alone = example_of(network, decoder[:, read], mask_ar[:, read], np.ones((3, len(read))))
    expected = call(network, "hidden", alone)
    np.testing.assert_allclose(hidden[2, read], expected[2], atol=1e-4)


@ALL
@settings(max_examples=5, deadline=None)
@given(
    data=st.data(),
    cuts=st.sampled_from([(4, 7), (3, 6, 9), ONE_BY_ONE]),
    second=st.integers(1, LENGTH),
)
def test_any_chunks_of_packed_documents_agree_with_one_forward_pass(network, data, cuts, second):
    """Each piece opens a step; within it, and over packed documents, any mask goes, bidirectional blocks included."""
    mask_ar = np.array([data.draw(st.lists(st.integers(0, 1), min_size=LENGTH, max_size=LENGTH)) for _ in range(2)])
    mask_ar[:, list(cuts)] = 1
    segments = np.broadcast_to(1 + (np.arange(LENGTH) >= second), (2, LENGTH))
    agree(network, example_of(network, tokens(second, 2, LENGTH), mask_ar, segments), cuts)


@ALL
def test_extending_a_cache_leaves_the_old_one_unchanged(network):
    """As a diffusion of blocks does: what a cache is extended by leaves no trace in it."""
    mask_ar = np.broadcast_to(np.isin(np.arange(LENGTH), [0, 4, 7]), (2, LENGTH))
    first, second = (example_of(network, tokens(s, 2, LENGTH), mask_ar, np.ones((2, LENGTH))) for s in (1, 2))
    cache = call(network, "empty_cache", first, length=LENGTH)
    _, cache = call(network, "extend", part_of(first, 0, 4), cache)
    once, _ = call(network, "extend", part_of(first, 4, 7), cache)
    call(network, "extend", part_of(second, 4, 7), cache)
    again, _ = call(network, "extend", part_of(first, 4, 7), cache)
    np.testing.assert_array_equal(once, again)


@ALL
def test_cache_rows_can_be_repeated_and_reordered(network):
    example = example_of(network, tokens(3, 2, LENGTH), np.ones((2, LENGTH)), np.ones((2, LENGTH)))
    cache = call(network, "empty_cache", example, length=LENGTH)
    _, cache = call(network, "extend", part_of(example, 0, 6), cache)
    order = jnp.array([1, 0, 1])
    kept = cache.rows(order)
    step = part_of(example, 6, 7)
    moved, after = call(network, "extend", jax.tree.map(lambda leaf: leaf[order], step), kept)
    expected, _ = call(network, "extend", step, cache)
    np.testing.assert_allclose(moved, expected[order], atol=1e-6)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, kept)


@ALL
def test_the_cache_is_a_scan_carry_in_the_networks_dtype(network):
    rough = network.clone(dtype="bfloat16")
    example = example_of(network, tokens(4, 2, 1), np.ones((2, 1)), np.ones((2, 1)))

    @jax.jit
    def loop(params):
        cache = rough.apply({"params": params}, example, LENGTH, method="empty_cache")

        def step(cache, _):
            hidden, cache = rough.apply({"params": params}, part_of(example, 0, 1), cache, method="extend")
            return cache, hidden

        return jax.lax.scan(step, cache, None, length=3)

    cache, hidden = jax.eval_shape(loop, PARAMS[network])
    assert {leaf.dtype for leaf in (*cache.keys, *cache.values, hidden)} == {jnp.dtype("bfloat16")}
    assert len(cache.keys) == len(cache.values) == 2
    assert {leaf.shape for leaf in (*cache.keys, *cache.values)} == {(2, 4, LENGTH, 8)}


@ALL
def test_the_encoders_input_is_encoded_once_or_read_as_a_prefix(network):
    """An encoder-decoder keeps it in the cache; a network without an encoder reads it as the prompt's prefix."""
    seq2seq = network if isinstance(network, EncoderDecoder) else NETWORKS["encoder-decoder"]
    whole = example_of(seq2seq, tokens(5, 2, LENGTH), np.ones((2, LENGTH)), np.ones((2, LENGTH)))
    expected = call(network, "hidden", whole)
    slots = LENGTH + (0 if network is seq2seq else 6)
    cache = call(network, "empty_cache", whole, length=slots)
    encoder = {} if network is seq2seq else {"encoder_input_tokens": whole.encoder_input_tokens}
    first, cache = call(network, "extend", part_of(whole, 0, 4).replace(**encoder), cache)
    rest, cache = call(network, "extend", part_of(whole, 4, LENGTH), cache)
    np.testing.assert_allclose(np.concatenate([first, rest], axis=1), expected, atol=1e-4)
    assert cache.filled == slots


def test_a_cache_from_an_encoders_output_is_that_from_the_example():
    network = NETWORKS["encoder-decoder"]
    example = example_of(network, tokens(6, 2, LENGTH), np.ones((2, LENGTH)), np.ones((2, LENGTH)))
    encoded = call(network, "encode", example)
    found = call(network, "empty_cache_from", encoded, example, length=3)
    expected = call(network, "empty_cache", example, length=3)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), found, expected)
    assert found.encoder_keys[0].shape == (2, 4, 6, 8) and np.abs(found.encoder_keys[0]).max() > 0.1


@ALL
def test_an_overfull_cache_gives_nan_or_an_error(network):
    example = example_of(network, tokens(8, 2, LENGTH), np.ones((2, LENGTH)), np.ones((2, LENGTH)))
    hidden, cache = in_pieces(network, example, (6,), slots=LENGTH)
    assert np.isfinite(hidden).all()
    overfull, _ = call(network, "extend", part_of(example, 0, 1), cache)
    assert np.isnan(overfull).all()
    with pytest.raises(UserError, match="10 tokens do not fit into a cache of 9 slots"):
        in_pieces(network, example, (), slots=9)
    with pytest.raises(UserError, match="A cache of 0 slots can hold no token"):
        in_pieces(network, example, (), slots=0)


def test_an_encoder_decoder_needs_its_own_cache():
    network = NETWORKS["encoder-decoder"]
    example = example_of(network, tokens(9, 2, LENGTH), np.ones((2, LENGTH)), np.ones((2, LENGTH)))
    foreign = call(NETWORKS["decoder-only"], "empty_cache", example, length=LENGTH)
    with pytest.raises(UserError, match="holds no encoder's side"):
        call(network, "extend", part_of(example, 0, 4), foreign)
