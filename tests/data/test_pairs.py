"""Every pair is a row once an epoch, in a fresh order; a row depends on (seed, number) alone, and holds its pair."""

import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.data.dataset import Dataset, PreparedData
from mixlm.data.loader.batches import Batches
from mixlm.data.loader.epochs import Repeated
from mixlm.data.loader.interleave import Mixed
from mixlm.data.loader.pairs import Pairs, in_order
from mixlm.data.loader.permutation import permutation
from mixlm.data.loader.rates import Rates, Shares
from mixlm.data.mixture import Mixture, Part
from mixlm.data.sources.text import TextFiles
from mixlm.data.store.token_store import StoreSplit, Tokenized, open_or_build
from mixlm.data.tasks import TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import UserError

LENGTHS = {"inputs": 4, "targets": 3}
sizes_of_pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), min_size=1, max_size=12).filter(
    lambda sizes: any(map(any, sizes))
)


def split_of(sizes: list[tuple[int, int]]) -> tuple[StoreSplit, list[tuple[list[int], list[int]]]]:
    """Pairs of such sizes whose tokens are all different, as a split and as lists."""
    tokens, pairs, offsets, targets = 1, [], [0], []
    for size, said in sizes:
        pairs.append((list(range(tokens, tokens + size)), list(range(tokens + size, tokens + size + said))))
        targets.append(tokens - 1 + size)
        tokens += size + said
        offsets.append(tokens - 1)
    split = StoreSplit(np.arange(1, tokens, dtype=np.uint32), np.asarray(offsets), 0, np.asarray(targets))
    return split, pairs


def slow_row(pair: tuple[list[int], list[int]], lengths: dict[str, int]) -> list[int]:
    inputs, targets = pair[0][: lengths["inputs"]], pair[1][: lengths["targets"]]
    row = [0] * (lengths["inputs"] - len(inputs)) + inputs + targets
    return row + [0] * (lengths["inputs"] + lengths["targets"] - len(row))


def slow_walk(pairs, lengths, seed, budget, epochs) -> list[list[int]]:
    """All rows of so many epochs in plain Python, from the orders alone."""
    rows, unique, tokens = [slow_row(pair, lengths) for pair in pairs], [], 0
    for number in permutation(len(pairs), 0).tolist():
        tokens += sum(token > 0 for token in rows[number])
        if budget is not None and tokens > budget:
            break
        unique.append(number)
    found = []
    for epoch in range(epochs):
        found += [rows[unique[place]] for place in permutation(len(unique), seed, 4, epoch).tolist()]
    return found


@settings(max_examples=100, deadline=None)
@given(
    sizes=sizes_of_pairs,
    lengths=st.fixed_dictionaries({"inputs": st.integers(1, 6), "targets": st.integers(1, 6)}),
    seed=st.integers(0, 2**31),
    epochs=st.integers(1, 4),
    budget=st.one_of(st.none(), st.integers(0, 60)),
)
def test_a_walk_is_that_of_plain_python_and_ends_with_padding(sizes, lengths, seed, epochs, budget):
    split, pairs = split_of(sizes)
    wanted = slow_walk(pairs, lengths, seed, budget, epochs)
    if not any(map(any, wanted)):
        with pytest.raises(UserError, match=r"holds no whole document|holds no tokens"):
            Pairs(split, lengths, seed, budget, epochs)
        return
    walk = Pairs(split, lengths, seed, budget, epochs)
    assert len(wanted) == epochs * walk.num_documents
    found = walk.blocks(np.arange(len(wanted) + 3))
    assert found.tolist() == wanted + [[0] * (lengths["inputs"] + lengths["targets"])] * 3
    for count in range(len(wanted) + 3):
        assert walk.tokens_in(count) == int((found[:count] > 0).sum())
    assert walk.figures(len(wanted), 1)["epoch"] == epochs
    assert Pairs(split, lengths, seed, budget).blocks(np.arange(len(wanted))).tolist() == wanted


@settings(max_examples=30, deadline=None)
@given(sizes=sizes_of_pairs, seed=st.integers(0, 2**31))
def test_every_pair_is_read_once_an_epoch_and_no_two_epochs_share_a_row(sizes, seed):
    split, pairs = split_of(sizes)
    walk = Pairs(split, LENGTHS, seed)
    for epoch in range(5):
        rows = walk.blocks(np.arange(epoch * len(pairs), (epoch + 1) * len(pairs))).tolist()
        assert sorted(rows) == sorted(slow_row(pair, LENGTHS) for pair in pairs)


def test_orders_are_fresh_by_epoch_and_by_seed():
    split = split_of([(3, 2)] * 9)[0]
    orders = {
        tuple(map(tuple, Pairs(split, LENGTHS, seed).blocks(np.arange(9 * epoch, 9 * epoch + 9)).tolist()))
        for seed in range(3)
        for epoch in range(4)
    }
    assert len(orders) == 12


@pytest.mark.parametrize("epochs", [None, 10**9])
def test_a_step_far_away_lays_out_its_own_epochs_alone(epochs, monkeypatch):
    laid_out = []
    lay_out = Pairs._lay_out_epoch
    monkeypatch.setattr(Pairs, "_lay_out_epoch", lambda self, epoch: laid_out.append(epoch) or lay_out(self, epoch))
    split, pairs = split_of([(number % 6, 1 + number % 4) for number in range(50)])
    step, size, unique = 10_000_000, 64, permutation(50, 0).tolist()
    wanted = []
    for index in range(step * size, (step + 1) * size):
        epoch, place = divmod(index, 50)
        wanted.append(slow_row(pairs[unique[permutation(50, 7, 4, epoch)[place]]], LENGTHS))
    walk = Pairs(split, LENGTHS, 7, epochs=epochs)
    assert walk.rows(step, size, np.arange(size)).tolist() == wanted
    assert len(laid_out) <= 3 and min(laid_out) >= step * size // 50
    found, batch = next(Batches(walk, size).iterate(step))
    assert found == step and batch["tokens"].tolist() == wanted
    for processes in (2, 8):
        parts = [Batches(walk, size, process, processes).batch(step)["tokens"] for process in range(processes)]
        assert np.concatenate(parts).tolist() == wanted
    per_epoch = int(walk.num_tokens)
    assert walk.tokens_in(step * size) == per_epoch * (step * size // 50)


def test_the_set_is_told_by_its_pairs_whatever_the_seed_and_the_lengths():
    split = split_of([(3, 2), (2, 3), (4, 1)])[0]
    plain = Pairs(split, LENGTHS, 0).fingerprint
    assert plain == Pairs(split, LENGTHS, 1).fingerprint == Pairs(split, {"inputs": 9, "targets": 9}, 0).fingerprint
    moved = StoreSplit(split.tokens, split.offsets, 0, split.targets - 1)
    others = [Pairs(moved, LENGTHS, 0), Pairs(split, LENGTHS, 0, unique_tokens=10), Repeated(split, 7, 0)]
    assert len({plain, *(other.fingerprint for other in others)}) == 4


def test_data_of_pairs_count_rows_and_tokens_as_the_walk_does(corpus, tmp_path):
    splits = {
        "train": split_of([(3, 2), (9, 9), (1, 1), (4, 0)])[1],
        "validation": split_of([(2, 1), (5, 5), (0, 3)])[1],
    }

    def documents(pairs, first):
        return (Tokenized(np.asarray([*read, *said]), 1, len(read)) for read, said in pairs[first:])

    def made():
        return {name: partial(documents, pairs) for name, pairs in splits.items()}

    store = open_or_build(tmp_path / "store", made, 112, "pairs", "vocabulary", print)
    task = TextTask("corpus", TextFiles(str(corpus)), TrainedSentencePiece(vocab_size=112, sentinels=20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own
        vocabulary = task.load_vocabulary(tmp_path, lambda line: None)
    data = PreparedData("pairs", vocabulary, store, 13, LENGTHS)
    walk = data.train(7, 0, 2)
    assert isinstance(walk, Pairs)
    assert (data.summary.unique_documents, data.summary.unique_tokens) == (walk.num_documents, walk.num_tokens)
    assert walk.num_tokens <= 13 and data.rows_of(7, 2) == 2 * walk.num_documents and data.rows_of(7, None) is None
    rows = [slow_row(pair, LENGTHS) for pair in splits["validation"]]
    assert data.validation(7).tolist() == rows and data.validation_size(7) == 3
    assert data.validation_rows(7, 6).tolist() == [row for row in rows for _ in range(2)]
    assert data.validation_rows(7, 2).tolist() == [rows[0], rows[1]]


def test_pairs_of_several_sources_are_mixed_by_their_rates():
    splits = [split_of([(3, 2)] * 6)[0], split_of([(1, 1)] * 4)[0]]
    walks = tuple(Pairs(split, LENGTHS, 3) for split in splits)
    walk = Mixed(("a", "b"), walks, Rates((Shares((3, 1)),)), 3)
    rows = np.concatenate([walk.rows(step, 8, np.arange(8)) for step in range(4)]).tolist()
    assert walk.counts(4, 8) == [24, 8]
    assert sorted(rows) == sorted([*walks[0].blocks(np.arange(24)).tolist(), *walks[1].blocks(np.arange(8)).tolist()])
    assert walk.figures(4, 8)["data/b/epoch"] == 2


TEXT = TextTask("text", TextFiles("nowhere"), TrainedSentencePiece(112))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Dataset(TEXT, pairs=LENGTHS),
            r"^The task 'text' is plain text: pairs need a seqio Task with the feat",
        ),
        (lambda: Dataset(TEXT, pairs=LENGTHS, stream=True), "Pairs of inputs and targets need a token store"),
        (lambda: Dataset(TEXT, pairs={"targets": 3}), r"there is no 'inputs' in \['targets'\]"),
        (lambda: Dataset(TEXT, pairs={"input": 3, "targets": 3}), r"Did you mean 'input'\?"),
        (
            lambda: Dataset(TEXT, pairs={"inputs": 0, "targets": 3}),
            r"\['inputs'\] must be a whole number above 0, got 0",
        ),
        (lambda: Mixture((Part(TEXT),), (1.0,), pairs=LENGTHS), "'text' is plain text"),
        (
            lambda: Pairs(StoreSplit(np.ones(3, np.uint32), np.array([0, 3]), 0), LENGTHS, 0),
            r"^The data have no inputs: pairs need a seqio Task",
        ),
        (lambda: Pairs(split_of([(0, 0)])[0], LENGTHS, 0), "holds no tokens"),
        (
            lambda: Pairs(split_of([(3, 3)])[0], LENGTHS, 0, 5),
            "holds no whole document; the smallest possible here is 6",
        ),
    ],
)
def test_what_are_no_pairs_is_one_sentence(make, words):
    with pytest.raises(UserError, match=words):
        make()
    with pytest.raises(IndexError):
        Pairs(split_of([(1, 1)])[0], LENGTHS, 0).block(-1)
    assert in_order(split_of([(1, 1)])[0], LENGTHS, np.array([0])).shape == (1, 7)
