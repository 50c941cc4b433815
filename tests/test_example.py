"""Who sees whom, against loops that spell it out."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mixlm.example import Example, attention_mask, same_segment, smallest_example

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


def example(**changes) -> Example:
    tokens = jnp.array([[5, 6, 7, 0], [8, 9, 0, 0]])
    fields = dict(
        decoder_input_tokens=jnp.zeros_like(tokens),
        decoder_target_tokens=tokens,
        decoder_loss_weights=jnp.ones(tokens.shape),
        decoder_mask_ar=jnp.ones_like(tokens),
    )
    return Example(**(fields | changes))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    arrays(np.int32, (ROWS, LENGTH), elements=st.integers(0, 1)),
    arrays(np.int32, (ROWS, LENGTH), elements=st.integers(0, 3)),
)
def test_the_mask_is_the_slow_loops_for_any_steps_and_segments(mask_ar, segments):
    np.testing.assert_array_equal(
        attention_mask(jnp.asarray(mask_ar), jnp.asarray(segments)), slow_mask(mask_ar, segments)
    )


def test_all_ones_is_causal_and_all_zeros_is_bidirectional():
    whole = jnp.ones((1, LENGTH), jnp.int32)
    np.testing.assert_array_equal(attention_mask(whole, whole)[0], np.tril(np.ones((LENGTH, LENGTH), bool)))
    np.testing.assert_array_equal(attention_mask(jnp.zeros_like(whole), whole)[0], np.ones((LENGTH, LENGTH), bool))


@pytest.mark.parametrize("prefix", range(LENGTH + 1))
def test_zeros_then_ones_is_a_prefix_that_everyone_sees_and_a_causal_rest(prefix: int):
    mask_ar = jnp.asarray(np.arange(LENGTH) >= prefix, jnp.int32)[None]
    place = np.arange(LENGTH)
    wanted = (place[None, :] < prefix) | (place[None, :] <= place[:, None])
    np.testing.assert_array_equal(attention_mask(mask_ar, jnp.ones_like(mask_ar))[0], wanted)


@pytest.mark.parametrize("causal", [0, 1])
def test_packed_documents_do_not_see_each_other_and_padding_neither_sees_nor_is_seen(causal: int):
    segments = jnp.array([[1, 1, 1, 2, 2, 0, 0]])
    seen = np.asarray(attention_mask(jnp.full_like(segments, causal), segments)[0])
    one = np.tril(np.ones((3, 3))) if causal else np.ones((3, 3))
    two = np.tril(np.ones((2, 2))) if causal else np.ones((2, 2))
    wanted = np.zeros((7, 7), bool)
    wanted[:3, :3], wanted[3:5, 3:5] = one, two
    np.testing.assert_array_equal(seen, wanted)


def test_across_two_sequences_only_equal_documents_meet():
    queries, keys = jnp.array([[1, 2, 0]]), jnp.array([[2, 2, 1, 0]])
    wanted = [[False, False, True, False], [True, True, False, False], [False, False, False, False]]
    np.testing.assert_array_equal(same_segment(queries, keys)[0], wanted)


def test_without_segment_ids_padding_is_where_the_target_or_the_encoders_input_is_zero():
    read = jnp.array([[4, 4, 0], [4, 0, 0]])
    plain = example(encoder_input_tokens=read)
    np.testing.assert_array_equal(plain.decoder_segments, [[1, 1, 1, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(plain.encoder_segments, [[1, 1, 0], [1, 0, 0]])


def test_segment_ids_win_over_the_guess_from_the_tokens():
    packed = example(
        decoder_segment_ids=jnp.array([[1, 1, 2, 2], [1, 2, 3, 0]]),
        encoder_input_tokens=jnp.array([[4, 0], [4, 4]]),
        encoder_segment_ids=jnp.array([[1, 2], [3, 0]]),
    )
    np.testing.assert_array_equal(packed.decoder_segments, [[1, 1, 2, 2], [1, 2, 3, 0]])
    np.testing.assert_array_equal(packed.encoder_segments, [[1, 2], [3, 0]])


def test_the_smallest_example_has_an_encoder_side_only_where_asked():
    assert smallest_example(encoder=False).encoder_input_tokens is None
    whole = smallest_example(encoder=True)
    assert whole.encoder_input_tokens is not None and whole.encoder_input_tokens.shape == (1, 1)
    assert whole.decoder_input_tokens.shape == (1, 1) and whole.decoder_segments.item() == 1
