"""Objectives over pairs read and score what a slow reading of each row says, whatever its padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.objectives.pairs import PairDiffusion, PairLM
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

IDS = TokenIds(vocab_size=30, mask=4, bos=3, sentinels=5)
LENGTHS = {"inputs": 5, "targets": 4}
DIFFUSION = PairDiffusion(IDS, LENGTHS)
causal = jax.jit(lambda keys, rows: PairLM(IDS, LENGTHS).corrupt(keys, {"tokens": rows}))
first_pass = jax.jit(lambda keys, rows: DIFFUSION.first(keys, {"tokens": rows}))
sides = st.tuples(
    st.lists(st.integers(5, 24), max_size=LENGTHS["inputs"]),
    st.lists(st.integers(5, 24), max_size=LENGTHS["targets"] - 1),
)


def rows_of(pairs) -> np.ndarray:
    rows = np.zeros((len(pairs), sum(LENGTHS.values())), np.int32)
    for row, (inputs, targets) in enumerate(pairs):
        said = [*targets, IDS.eos]
        rows[row, LENGTHS["inputs"] - len(inputs) : LENGTHS["inputs"]] = inputs
        rows[row, LENGTHS["inputs"] : LENGTHS["inputs"] + len(said)] = said
    return rows


@settings(max_examples=12, deadline=None)
@given(st.lists(sides, min_size=3, max_size=3))
def test_a_causal_row_reads_bos_and_its_pair_and_scores_the_targets_through_eos(pairs):
    rows = rows_of(pairs)
    example = causal(row_keys(0, 0, 3), jnp.asarray(rows))
    for row, (inputs, targets) in enumerate(pairs):
        present = np.asarray(example.decoder_segment_ids[row]) > 0
        whole = [*inputs, *targets, IDS.eos]
        assert np.asarray(example.decoder_input_tokens[row])[present].tolist() == [IDS.bos, *whole[:-1]]
        assert np.asarray(example.decoder_target_tokens[row])[present].tolist() == whole
        weights = np.asarray(example.decoder_loss_weights[row])
        assert weights[present].tolist() == [0] * len(inputs) + [1] * (len(targets) + 1)
        assert weights[~present].sum() == 0
    assert np.all(np.asarray(example.decoder_mask_ar) == 1)


@settings(max_examples=12, deadline=None)
@given(st.lists(sides, min_size=3, max_size=3), st.integers(0, 1000))
def test_diffusion_noises_the_targets_with_their_padding_and_never_the_inputs(pairs, step):
    rows = rows_of(pairs)
    drawn = first_pass(row_keys(0, step, 3), jnp.asarray(rows))
    middle = LENGTHS["inputs"]
    read = np.asarray(drawn.first.decoder_input_tokens)
    assert np.array_equal(read[:, :middle], rows[:, :middle])
    assert np.array_equal(drawn.first.decoder_target_tokens, rows)
    assert np.asarray(drawn.first.decoder_loss_weights).tolist() == [[0] * middle + [1] * 4] * 3
    for row, (inputs, _) in enumerate(pairs):
        segments = np.asarray(drawn.first.decoder_segment_ids[row]).tolist()
        assert segments == [0] * (middle - len(inputs)) + [1] * (len(inputs) + 4)
    second = np.asarray(DIFFUSION.second(drawn, jnp.full(rows.shape, 9)).decoder_input_tokens)
    assert np.array_equal(second[:, :middle], rows[:, :middle]) and np.all(second[:, middle:] == 9)
    assert np.all(np.asarray(drawn.first.decoder_mask_ar) == 0)


def test_half_of_the_places_are_noised_and_a_row_of_padding_is_not_scored():
    rows = np.tile(rows_of([([7, 8], [9])]), (4000, 1))
    drawn = first_pass(row_keys(0, 0, 4000), jnp.asarray(rows))
    changed = np.asarray(drawn.first.decoder_input_tokens != rows)[:, LENGTHS["inputs"] :]
    # A share uniform over [0, 1), of which one in 30 becomes the same token again; its variance over rows is 1/12.
    assert abs(changed.mean() - 0.5 * 29 / 30) < 4 * np.sqrt(1 / 12 / 4000)
    assert abs(changed.mean(1).std() - np.sqrt(1 / 12 + 1 / 6 / 4)) < 0.02
    for each in (causal, lambda keys, rows: first_pass(keys, rows).first):
        empty = each(row_keys(0, 0, 3), jnp.zeros((3, 9), jnp.int32))
        assert np.asarray(empty.decoder_loss_weights).sum() == 0


def test_lengths_are_those_of_the_recipe():
    for kind in (PairLM, PairDiffusion):
        objective = kind(IDS, LENGTHS)
        assert objective.block_length(LENGTHS) == 9 and objective.pairs and hash(objective) == hash(kind(IDS, LENGTHS))
        with pytest.raises(UserError, match=f"{kind.__name__}.lengths are"):
            objective.block_length({"inputs": 5, "targets": 5})
