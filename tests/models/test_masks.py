"""The mask rule against loops that spell it out: self-attention, cross-attention, and a KV cache's chunks."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mixlm.example import Example
from mixlm.models.attention.masks import cached_mask, cross_mask, same_segment, self_mask
from mixlm.models.base import encoder_as_prefix

ROWS, LENGTH = 3, 7


def slow_mask(mask_ar: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """A query sees a key of its own document unless the key opens a causal step that the query has not reached."""
    seen = np.zeros((*mask_ar.shape, mask_ar.shape[1]), bool)
    for row in range(mask_ar.shape[0]):
        for query in range(mask_ar.shape[1]):
            for key in range(mask_ar.shape[1]):
                steps_between = sum(int(mask_ar[row, place]) for place in range(query + 1, key + 1))
                same = segments[row, query] == segments[row, key] != 0
                seen[row, query, key] = same and steps_between == 0
    return seen


def dense_self_mask(mask_ar, segments) -> np.ndarray:
    return np.asarray(self_mask(jnp.asarray(mask_ar), jnp.asarray(segments)).dense())


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    arrays(np.int32, (ROWS, LENGTH), elements=st.integers(0, 1)),
    arrays(np.int32, (ROWS, LENGTH), elements=st.integers(0, 3)),
)
def test_self_mask_agrees_with_loops_for_any_mask_ar_and_segments(mask_ar, segments):
    np.testing.assert_array_equal(
        dense_self_mask(jnp.asarray(mask_ar), jnp.asarray(segments)), slow_mask(mask_ar, segments)
    )


def test_all_ones_is_causal_and_all_zeros_is_bidirectional():
    whole = jnp.ones((1, LENGTH), jnp.int32)
    np.testing.assert_array_equal(dense_self_mask(whole, whole)[0], np.tril(np.ones((LENGTH, LENGTH), bool)))
    np.testing.assert_array_equal(dense_self_mask(jnp.zeros_like(whole), whole)[0], np.ones((LENGTH, LENGTH), bool))


@pytest.mark.parametrize("prefix", range(LENGTH + 1))
def test_zeros_then_ones_is_a_visible_prefix_and_a_causal_rest(prefix: int):
    mask_ar = jnp.asarray(np.arange(LENGTH) >= prefix, jnp.int32)[None]
    place = np.arange(LENGTH)
    wanted = (place[None, :] < prefix) | (place[None, :] <= place[:, None])
    np.testing.assert_array_equal(dense_self_mask(mask_ar, jnp.ones_like(mask_ar))[0], wanted)


@pytest.mark.parametrize("causal", [0, 1])
def test_packed_documents_are_separate_and_padding_attends_to_nothing(causal: int):
    segments = jnp.array([[1, 1, 1, 2, 2, 0, 0]])
    seen = np.asarray(dense_self_mask(jnp.full_like(segments, causal), segments)[0])
    one = np.tril(np.ones((3, 3))) if causal else np.ones((3, 3))
    two = np.tril(np.ones((2, 2))) if causal else np.ones((2, 2))
    wanted = np.zeros((7, 7), bool)
    wanted[:3, :3], wanted[3:5, 3:5] = one, two
    np.testing.assert_array_equal(seen, wanted)


def test_cross_mask_joins_equal_segments_alone():
    queries, keys = jnp.array([[1, 2, 0]]), jnp.array([[2, 2, 1, 0]])
    wanted = [[False, False, True, False], [True, True, False, False], [False, False, False, False]]
    np.testing.assert_array_equal(same_segment(queries, keys)[0], wanted)
    np.testing.assert_array_equal(cross_mask(queries, keys).dense()[0], wanted)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    arrays(np.int32, (ROWS, LENGTH), elements=st.integers(0, 1)),
    arrays(np.int32, (ROWS, LENGTH), elements=st.integers(0, 3)),
    st.integers(1, LENGTH - 1),
    st.integers(0, 2),
)
def test_cached_mask_is_the_whole_rows_mask_for_a_chunk_that_opens_a_causal_step(mask_ar, segments, start, free):
    """`free` slots behind the chunk are empty; the chunk's queries see what they would see in the whole row."""
    mask_ar[:, start] = 1
    slots = jnp.pad(jnp.asarray(segments), ((0, 0), (0, free)))
    chunk = jnp.asarray(mask_ar[:, start:]), jnp.asarray(segments[:, start:])
    found = np.asarray(cached_mask(*chunk, jnp.asarray(start), slots).dense())
    np.testing.assert_array_equal(found[..., :LENGTH], slow_mask(mask_ar, segments)[:, start:])
    assert not found[..., LENGTH:].any()


def test_an_encoder_s_input_as_a_prefix_sees_itself_alone_whatever_the_mask_begins_with():
    """A mask that begins with 0 joins the block before it, which must not be the prefix: it would read the targets."""
    mask_ar = np.asarray(list(product((0, 1), repeat=4)), np.int32)
    tokens, prefix = jnp.full(mask_ar.shape, 5), jnp.full((len(mask_ar), 3), 6)
    example = Example(tokens, tokens, jnp.ones(tokens.shape), jnp.asarray(mask_ar), encoder_input_tokens=prefix)
    whole = jax.jit(encoder_as_prefix)(example)
    seen = dense_self_mask(whole.decoder_mask_ar, whole.decoder_segments)
    assert seen[:, :3, :3].all() and not seen[:, :3, 3:].any() and seen[:, 3:, :3].all()
    np.testing.assert_array_equal(seen[:, 3:, 3:], slow_mask(mask_ar, np.ones_like(mask_ar)))
