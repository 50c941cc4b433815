"""Defaults of an example: segments where none are given, and the smallest one."""

import jax.numpy as jnp
import numpy as np

from mixlm.example import Example, smallest_example


def example(**changes) -> Example:
    tokens = jnp.array([[5, 6, 7, 0], [8, 9, 0, 0]])
    fields = dict(
        decoder_input_tokens=jnp.zeros_like(tokens),
        decoder_target_tokens=tokens,
        decoder_loss_weights=jnp.ones(tokens.shape),
        decoder_mask_ar=jnp.ones_like(tokens),
    )
    return Example(**(fields | changes))


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
