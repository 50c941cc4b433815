"""Continuation by an encoder-decoder: what is read, what is said, what is scored, row by row in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixlm.losses.token_losses import CrossEntropy
from mixlm.objectives.base import Objective, RowObjective
from mixlm.objectives.continuation import Continuation, replace_span
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

TOKENS = TokenIds(60, 39, sentinels=20, bos=7)
PREFIX = Continuation(TOKENS, SpanCorruption(TOKENS))
CAUSAL = Continuation(TOKENS, SpanCorruption(TOKENS), after_prefix=False)
FIRST_SENTINEL, EOS = 59, 1


def text(rows: int, length: int) -> dict:
    return {"tokens": jnp.asarray(np.random.default_rng(0).integers(2, 38, (rows, length)), jnp.int32)}


def said(example, row: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """What a row's encoder reads, its decoder reads and says, and what of that is scored, without the padding."""
    read = example.encoder_input_tokens[row][example.encoder_segment_ids[row] > 0].tolist()
    present = example.decoder_segment_ids[row] > 0
    scored = example.decoder_target_tokens[row][example.decoder_loss_weights[row] > 0].tolist()
    return (
        read,
        *(part[row][present].tolist() for part in (example.decoder_input_tokens, example.decoder_target_tokens)),
        scored,
    )


def test_a_row_is_cut_in_two_and_its_second_part_is_said():
    batch, keys = text(64, 12), row_keys(0, 0, 64)
    example = jax.jit(PREFIX.corrupt)(keys, batch)
    splits = set()
    for row, tokens in enumerate(batch["tokens"].tolist()):
        read, heard, target, scored = said(example, row)
        split = len(read) - 2
        assert read == [*tokens[:split], FIRST_SENTINEL, EOS]
        assert target == [FIRST_SENTINEL, *tokens[split:]]
        assert heard == [7, *target[:-1]]
        assert scored == tokens[split:]
        splits.add(split)
    assert splits == set(range(1, 12)), "the split is anywhere but at the ends"


def test_without_a_prefix_all_is_said_after_a_lone_sentinel():
    batch = text(3, 12)
    example = CAUSAL.corrupt(row_keys(0, 0, 3), batch)
    for row, tokens in enumerate(batch["tokens"].tolist()):
        assert said(example, row) == (
            [FIRST_SENTINEL, EOS],
            [7, FIRST_SENTINEL, *tokens[:-1]],
            [FIRST_SENTINEL, *tokens],
            tokens,
        )


def test_only_the_span_of_a_short_row_is_taken_out():
    rows = jnp.asarray([[11, 12, 13, 14, 15, 0]], jnp.int32)
    one = jnp.ones(1, jnp.int32)
    example = replace_span(rows, 5 * one, 1 * one, 3 * one, 4, TOKENS)
    assert said(example, 0) == (
        [11, FIRST_SENTINEL, 14, 15, EOS],
        [7, FIRST_SENTINEL, 12],
        [FIRST_SENTINEL, 12, 13],
        [12, 13],
    )


class Uniform:
    """A network that knows nothing."""

    def hidden(self, example):
        return jnp.zeros((*example.decoder_input_tokens.shape, 1))

    def logits(self, hidden):
        return jnp.zeros((*hidden.shape[:-1], TOKENS.vocab_size))


@pytest.mark.parametrize(("objective", "name"), [(PREFIX, "prefix_lm"), (CAUSAL, "causal")])
def test_knowing_nothing_costs_log_v_for_each_token_that_follows(objective, name):
    assert isinstance(objective, Objective) and isinstance(objective, RowObjective)
    assert objective.name == name and objective.loss == CrossEntropy()
    terms = objective({"model": Uniform()}, text(8, 12), row_keys(0, 0, 8), jnp.zeros((), jnp.int32))
    assert float(terms[name].value) == pytest.approx(np.log(60), rel=1e-5)
    # 8 rows of 12 tokens, less their prefixes.
    assert float(terms[name].count) == 96 if name == "causal" else 8 <= float(terms[name].count) < 96


def test_rows_are_as_long_as_span_corruptions():
    lengths = {"inputs": 128, "targets": 29}
    assert PREFIX.block_length(lengths) == SpanCorruption(TOKENS).block_length(lengths) == 141
