"""Packed rows: each pair in one row, as it was, and every row once an epoch; a row says by itself where pairs begin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.data.loader.packing import OPEN_ROWS, packs
from mixlm.data.loader.pairs import Pairs
from mixlm.data.store.token_store import StoreSplit
from mixlm.errors import UserError

LENGTHS = {"inputs": 9, "targets": 5}
sizes_of_pairs = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=30)


def split_of(sizes):
    """Pairs of such sizes whose tokens are all different, as a split and as lists."""
    tokens, pairs, offsets, targets = 1, [], [0], []
    for size, said in sizes:
        pairs.append((list(range(tokens, tokens + size)), list(range(tokens + size, tokens + size + said))))
        targets.append(tokens - 1 + size)
        tokens += size + said
        offsets.append(tokens - 1)
    return StoreSplit(np.arange(1, tokens, dtype=np.uint32), np.asarray(offsets), 0, np.asarray(targets)), pairs


def runs(part):
    """The tokens between paddings, in order."""
    return [run for run in (np.asarray(run).tolist() for run in np.split(part, np.flatnonzero(part == 0))) if any(run)]


def read(row):
    """The pairs that a row holds, as a reader finds them who knows of padding alone."""
    sides = [[[token for token in run if token] for run in runs(side)] for side in (row[:9], row[9:])]
    assert len(sides[0]) == len(sides[1])
    return list(zip(*sides))


@settings(max_examples=40, deadline=None)
@given(sizes_of_pairs, st.integers(0, 2**31), st.one_of(st.none(), st.integers(20, 200)))
def test_every_pair_is_read_once_an_epoch_and_the_budget_is_kept(sizes, seed, budget):
    split, pairs = split_of(sizes)
    try:
        single = Pairs(split, LENGTHS, seed, budget)
    except UserError:
        return  # a budget that holds no pair
    walk = Pairs(split, LENGTHS, seed, budget, epochs=2, packed=True)
    rows = walk.blocks(np.arange(2 * walk.num_rows + 1))
    assert not rows[-1].any()
    cut = [(a[:9], b[:5]) for a, b in pairs]
    once = [cut[number] for number in single._documents]
    for epoch in (rows[: walk.num_rows], rows[walk.num_rows : -1]):
        assert sorted(pair for row in epoch for pair in read(row)) == sorted(once)
    assert (walk.num_tokens, walk.num_documents) == (single.num_tokens, single.num_documents)
    assert walk.fingerprint == single.fingerprint
    for count in range(len(rows)):
        assert walk.tokens_in(count) == int((rows[:count] > 0).sum())


def test_rows_are_nearly_full_and_their_number_is_a_function_of_the_sizes():
    draw = np.random.default_rng(0)
    inputs, targets = draw.integers(4, 60, 3000), draw.integers(2, 8, 3000)
    order, bounds = packs(inputs, targets, {"inputs": 255, "targets": 63})
    assert sorted(order.tolist()) == list(range(3000))
    sums = np.add.reduceat(inputs[order] + 1, bounds[:-1])
    assert sums.max() <= 256 and np.add.reduceat(targets[order] + 1, bounds[:-1]).max() <= 64
    assert sums[:-OPEN_ROWS].mean() > 0.97 * 256
    assert len(packs(inputs, targets, {"inputs": 255, "targets": 63})[1]) == len(bounds)


def test_a_pair_without_inputs_is_refused():
    with pytest.raises(UserError, match=r"^Pair 1 has no inputs, and packed rows need some: leave PACKED out\.$"):
        packs(np.asarray([3, 0]), np.asarray([1, 1]), LENGTHS)
