"""Greedy decoding says what a slow loop over the growing prefix says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import BATCHES, SPANS, TOKENS

from mixlm.decode import fill_spans
from mixlm.example import Example
from mixlm.models.t5 import EncoderDecoder

LENGTH = 5
MODEL = EncoderDecoder(
    vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1, num_decoder_layers=1
)


@pytest.fixture(scope="module")
def params():
    """Parameters of a network that does not say the same token everywhere."""
    found = jax.jit(MODEL.init)(jax.random.key(3), *MODEL.inputs())["params"]
    return jax.tree.map(lambda leaf: 2.0 * leaf, jax.tree.map(jnp.asarray, jax.device_get(unboxed(found))))


def unboxed(tree):
    return jax.tree.map(lambda box: getattr(box, "value", box), tree, is_leaf=lambda leaf: hasattr(leaf, "names"))


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(0), 3)
    return jax.jit(SPANS.corrupt)(keys, {"tokens": jnp.asarray(BATCHES[0]["tokens"][:3])}).encoder_input_tokens


@jax.jit
def call(params, example):
    return MODEL.apply({"params": params}, example)


def slow(params, inputs, length, bos, eos):
    """One row and one token at a time, over a prefix that grows by what was said."""
    rows = []
    for row in np.asarray(inputs):
        said = []
        while len(said) < length and eos not in said:
            read = np.asarray([[bos, *said]], np.int32)
            ones = jnp.ones(read.shape, jnp.int32)
            example = Example(jnp.asarray(read), ones, jnp.ones(read.shape), ones, jnp.asarray(row[None]))
            said.append(int(np.argmax(np.asarray(call(params, example))[0, -1])))
        rows.append(said + [0] * (length - len(said)))
    return np.asarray(rows)


def test_filling_is_greedy_over_the_growing_prefix(params, inputs):
    found = np.asarray(fill_spans(MODEL, params, inputs, LENGTH, bos=TOKENS.bos, eos=TOKENS.eos))
    wanted = slow(params, inputs, LENGTH, TOKENS.bos, TOKENS.eos)
    assert len(np.unique(wanted)) > 4  # Else any loop would do.
    np.testing.assert_array_equal(found, wanted)


def test_nothing_is_said_after_eos(params, inputs):
    said = slow(params, inputs, LENGTH, TOKENS.bos, eos=-1)
    # Whatever is said third in the first row shall end it.
    eos = int(said[0, 2])
    found = np.asarray(fill_spans(MODEL, params, inputs, LENGTH, bos=TOKENS.bos, eos=eos))
    np.testing.assert_array_equal(found, slow(params, inputs, LENGTH, TOKENS.bos, eos))
    assert (found[0, list(found[0]).index(eos) + 1 :] == 0).all() and (found == 0).any()


def test_the_first_token_read_is_bos(params, inputs):
    found = np.asarray(fill_spans(MODEL, params, inputs, 3, bos=9, eos=TOKENS.eos))
    np.testing.assert_array_equal(found, slow(params, inputs, 3, 9, TOKENS.eos))
