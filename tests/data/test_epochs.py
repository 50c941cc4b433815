"""Each epoch is each token once, in whole documents, in a new order; a block depends on (seed, number) alone."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import split_of

from mixlm.data.loader.epochs import Repeated, sequential, unique_documents
from mixlm.data.loader.permutation import permutation, round_keys, shuffled
from mixlm.errors import UserError

lengths_of_documents = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any)


@settings(max_examples=120, deadline=None)
@given(lengths=lengths_of_documents, block_length=st.integers(1, 30), seed=st.integers(0, 2**63), data=st.data())
def test_over_e_epochs_every_token_is_seen_e_times_in_whole_documents(lengths, block_length, seed, data):
    split = split_of(lengths)
    smallest = Repeated(split, 1, 0).num_tokens
    budget = data.draw(st.one_of(st.none(), st.integers(smallest, 2 * smallest)))
    repeated = Repeated(split, block_length, seed, budget)
    size, epochs = repeated.num_tokens, 3
    count = -(-epochs * size // block_length)
    positions = [repeated.position_of(index) for index in range(count)]
    # Blocks change places only with blocks that begin in the same epoch.
    assert sorted(positions) == [index * block_length for index in range(count)]
    assert [position // size for position in positions] == [repeated.epoch_of(index) for index in range(count)]

    stream = np.full(count * block_length, -1)
    for index, block in enumerate(repeated.blocks(np.arange(count))):
        stream[positions[index] : positions[index] + block_length] = block
    for epoch in range(epochs):
        tokens = stream[epoch * size : (epoch + 1) * size]
        assert sorted(tokens) == list(range(split.num_tokens))
        # A document's tokens are consecutive numbers, and only its first may follow anything else.
        jumps = [tokens[i] for i in range(1, size) if tokens[i] != tokens[i - 1] + 1]
        assert set(jumps) <= set(split.offsets[:-1].tolist())


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    block_length=st.integers(1, 9),
    seed=st.integers(0, 2**40),
    epochs=st.sampled_from([None, 1, 3]),
    before=st.integers(0, 1),
)
def test_many_blocks_at_once_are_those_one_by_one(lengths, block_length, seed, epochs, before):
    repeated = Repeated(split_of(lengths), block_length, seed, None, epochs)
    indices = np.random.default_rng(0).permutation(4 * repeated.num_tokens // block_length + 4)
    one_by_one = np.stack([repeated.block(int(index), before) for index in indices])
    np.testing.assert_array_equal(repeated.blocks(indices, before), one_by_one)


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), min_size=2, max_size=30), data=st.data())
def test_the_unique_set_is_the_longest_prefix_of_one_fixed_order(lengths, data):
    offsets = split_of(lengths).offsets
    order = unique_documents(offsets, None).tolist()
    assert sorted(order) == list(range(len(lengths)))
    in_order = [lengths[document] for document in order]
    budget = data.draw(st.integers(in_order[0], sum(lengths) + 5))
    slow, total = 0, 0
    while slow < len(lengths) and total + in_order[slow] <= budget:
        total += in_order[slow]
        slow += 1
    assert unique_documents(offsets, budget).tolist() == order[:slow]
    with pytest.raises(UserError, match=rf"smallest possible here is {in_order[0]}\b"):
        unique_documents(offsets, in_order[0] - 1)


def test_the_unique_set_depends_on_neither_seed_nor_block_length():
    split = split_of(range(5, 105))
    sets = {
        (r.fingerprint, r.num_tokens, r.num_documents)
        for r in (Repeated(split, length, seed, 1000) for length in (1, 8, 33) for seed in (0, 1))
    }
    assert len(sets) == 1
    others = {Repeated(split, 8, 0, budget).fingerprint for budget in (None, 1000, 1200, 2000)}
    assert len(others) == 4
    changed = split_of(range(5, 105))
    changed.tokens[changed.offsets[unique_documents(changed.offsets, 1000)[0]]] += 1
    assert Repeated(changed, 8, 0, 1000).fingerprint not in others


def test_the_unique_set_of_a_sorted_corpus_comes_from_all_over():
    documents = unique_documents(split_of([10] * 400).offsets, 1000)
    assert len(documents) == 100
    assert all(np.sum(documents // 100 == quarter) >= 10 for quarter in range(4))


def stream_of_epoch(repeated: Repeated, epoch: int) -> np.ndarray:
    count = repeated.num_tokens // repeated.block_length
    indices = range(epoch * count, (epoch + 1) * count)
    by_position = sorted(indices, key=repeated.position_of)
    return np.concatenate([repeated.block(index) for index in by_position])


def test_epochs_and_seeds_differ_and_a_seed_repeats_itself():
    split = split_of([10] * 50)
    orders = [tuple(stream_of_epoch(Repeated(split, 10, seed), epoch)) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6
    assert orders[1] == tuple(stream_of_epoch(Repeated(split, 10, 0), 1))


def test_a_block_is_the_same_however_one_comes_to_it():
    split = split_of([7, 30, 2, 19] * 5)
    forwards, backwards = Repeated(split, 13, 5), Repeated(split, 13, 5)
    there = [forwards.block(index) for index in range(100)]
    back = [backwards.block(index) for index in reversed(range(100))][::-1]
    np.testing.assert_array_equal(there, back)
    np.testing.assert_array_equal(forwards.blocks(np.array([3, 99, 3])), [there[3], there[99], there[3]])
    assert forwards.block(0).dtype == np.int32


def test_far_away_is_like_nearby():
    split = split_of([7, 30, 2, 19] * 5)
    repeated = Repeated(split, 13, 5)
    index = 10**12 // 13
    assert repeated.epoch_of(index) == index * 13 // 290
    first = -(-repeated.epoch_of(index) * 290 // 13)
    starts = sorted(repeated.position_of(i) for i in range(first, first + 22))
    assert starts == [i * 13 for i in range(first, first + 22)]
    assert set(repeated.block(index).tolist()) <= set(range(290))


def test_a_batch_holds_few_neighbours():
    repeated = Repeated(split_of([64] * 200), 8, 0)
    numbers = np.array([repeated.position_of(index) // 8 for index in range(1600)])
    assert np.mean(np.abs(np.diff(numbers)) == 1) < 0.02
    # A permutation by chance moves a block by a third of the range, on average.
    assert 0.25 < np.mean(np.abs(numbers - np.arange(1600))) / 1600 < 0.42


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 300), key=st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6))
def test_shuffling_without_a_table_is_a_permutation(size, key):
    keys = np.array(key, np.uint64)
    assert sorted(shuffled(index, size, keys) for index in range(size)) == list(range(size))


def test_the_streams_of_old_runs_stay_as_they_were():
    """Golden: a resumed run depends on these numbers, whatever the version of numpy or of this code."""
    repeated = Repeated(split_of([3, 1, 4, 1, 5, 9, 2, 6]), 4, 17)
    assert unique_documents(repeated._split.offsets, None).tolist() == GOLDEN_ORDER
    assert repeated.blocks(np.array([0, 1, 9, 10**9])).tolist() == GOLDEN_BLOCKS


GOLDEN_ORDER = [4, 6, 0, 7, 5, 1, 3, 2]
GOLDEN_BLOCKS = [[11, 12, 13, 3], [29, 30, 14, 15], [3, 9, 10, 11], [6, 7, 9, 10]]


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=9), block_length=st.integers(1, 12))
def test_validation_is_the_split_in_order(lengths, block_length):
    split = split_of(lengths)
    if sum(lengths) < block_length:
        with pytest.raises(UserError, match=f"less than one block of {block_length}"):
            sequential(split, block_length)
        return
    blocks = sequential(split, block_length)
    assert blocks.dtype == np.int32 and blocks.shape[1] == block_length
    assert blocks.ravel().tolist() == list(range(blocks.size))
    assert 0 <= sum(lengths) - blocks.size < block_length


@settings(max_examples=120, deadline=None)
@given(
    lengths=lengths_of_documents,
    block_length=st.integers(1, 30),
    seed=st.integers(0, 2**63),
    epochs=st.integers(1, 4),
    batch_size=st.integers(1, 7),
)
def test_a_run_of_e_epochs_shows_each_token_e_times_and_no_epoch_before_the_last_is_done(
    lengths, block_length, seed, epochs, batch_size
):
    split = split_of(lengths)
    split.tokens[:] += 1  # token 0 is padding
    repeated = Repeated(split, block_length, seed, epochs=epochs)
    blocks = math.ceil(epochs * repeated.num_tokens / block_length)
    steps = math.ceil(blocks / batch_size)
    stream = np.concatenate(
        [repeated.rows(step, batch_size, np.arange(batch_size)).ravel() for step in range(steps + 1)]
    ).tolist()
    text = [token for token in stream if token]
    everything = list(range(1, split.num_tokens + 1))
    for epoch in range(epochs):
        assert sorted(text[epoch * len(everything) : (epoch + 1) * len(everything)]) == everything
    assert stream[: len(text)] == text, "padding comes after the last token"
    assert len(text) == epochs * len(everything) == repeated.tokens_in(steps * batch_size)
    figures = repeated.figures(steps, batch_size)
    assert (figures["tokens"], figures["epoch"]) == (len(text), epochs)


@settings(max_examples=60, deadline=None)
@given(
    lengths=lengths_of_documents, block_length=st.integers(1, 30), seed=st.integers(0, 2**63), epochs=st.integers(1, 4)
)
def test_an_end_changes_nothing_before_it(lengths, block_length, seed, epochs):
    endless, ended = (Repeated(split_of(lengths), block_length, seed, epochs=end) for end in (None, epochs))
    whole = epochs * endless.num_tokens // block_length
    if epochs * endless.num_tokens % block_length:
        whole -= 1  # the last block is the padded one, at its place at the end
    np.testing.assert_array_equal(ended.blocks(np.arange(whole)), endless.blocks(np.arange(whole)))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 200), block_length=st.integers(1, 30), seed=st.integers(0, 2**63))
def test_only_a_block_across_a_boundary_leaves_its_place_in_the_permutation(size, block_length, seed):
    repeated = Repeated(split_of([size]), block_length, seed)
    for epoch in range(3):
        first, after = (math.ceil(e * size / block_length) for e in (epoch, epoch + 1))
        places = [repeated.position_of(index) // block_length - first for index in range(first, after)]
        keys = round_keys(seed, 2, epoch)
        drawn = [shuffled(place, after - first, keys) for place in range(after - first)]
        if (epoch + 1) * size % block_length and drawn:
            last = drawn.index(len(drawn) - 1)
            drawn[last], drawn[-1] = drawn[-1], drawn[last]
        assert places == drawn


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(4, 9), min_size=8, max_size=8), seed=st.integers(0, 2**63))
def test_each_pass_reshuffles_and_cuts_the_documents_anew(lengths, seed):
    split = split_of(lengths)
    size = split.num_tokens
    repeated, passes, orders = Repeated(split, 5, seed), [], []
    for epoch in range(4):
        first, after = (math.ceil(e * size / 5) for e in (epoch, epoch + 1))
        blocks = [repeated.block(index) for index in range(first, after)]
        passes.append({tuple(block) for block in blocks})
        orders.append(tuple(token for block in blocks for token in block if token in split.offsets[:-1]))
    # Eight documents may fall into the same order once by chance, but hardly four times.
    assert len(set(orders)) >= 3
    assert len(set(map(frozenset, passes))) >= 3


@pytest.mark.parametrize("epochs", [None, 10**9])
def test_a_step_far_away_lays_out_no_more_than_its_own_epochs(epochs, monkeypatch):
    laid_out = []
    lay_out = Repeated._lay_out_epoch
    monkeypatch.setattr(Repeated, "_lay_out_epoch", lambda self, epoch: laid_out.append(epoch) or lay_out(self, epoch))
    repeated = Repeated(split_of([7, 30, 2, 19] * 5), 13, 5, epochs=epochs)
    step, batch_size = 10_000_000, 64
    batch = repeated.rows(step, batch_size, np.arange(batch_size))
    begins = step * batch_size * 13 // 290
    assert len(laid_out) == len(set(laid_out)) <= 64 * 13 // 290 + 2
    assert min(laid_out) >= begins
    np.testing.assert_array_equal(batch, [slow_block(step * batch_size + row) for row in range(batch_size)])


def slow_block(index: int) -> list[int]:
    """Block `index` of the walk above in plain Python, from the documents' order in its epochs."""
    lengths, size, length = [7, 30, 2, 19] * 5, 290, 13
    starts = [sum(lengths[:document]) for document in range(20)]
    unique = permutation(20, 0).tolist()
    epoch = index * length // size
    first, after = -(-epoch * size // length), -(-(epoch + 1) * size // length)
    drawn = [shuffled(place, after - first, round_keys(5, 2, epoch)) for place in range(after - first)]
    if (epoch + 1) * size % length:
        last = drawn.index(len(drawn) - 1)
        drawn[last], drawn[-1] = drawn[-1], drawn[last]
    begin = (first + drawn[index - first]) * length - epoch * size
    tokens = []
    for each in (epoch, epoch + 1):
        for document in permutation(20, 5, 1, each).tolist():
            start = starts[unique[document]]
            tokens += range(start, start + lengths[unique[document]])
    return tokens[begin : begin + length]


def test_what_cannot_be_walked_is_refused():
    with pytest.raises(UserError, match="no tokens"):
        Repeated(split_of([0, 0]), 4, 0)
    with pytest.raises(UserError, match="at least one token"):
        Repeated(split_of([5]), 0, 0)
    with pytest.raises(IndexError):
        Repeated(split_of([5]), 2, 0).block(-1)
