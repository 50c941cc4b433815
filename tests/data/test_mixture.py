"""Mixtures: each source is walked as if it were alone, their counts are exact, and one vocabulary serves all."""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.decoder_runs import recipe
from support.runs import DEVICES, lines
from support.stores import split_of

from mixlm.checkpoints.saving import Checkpoints
from mixlm.data.loader.batches import Batches
from mixlm.data.loader.epochs import Repeated
from mixlm.data.loader.interleave import Mixed
from mixlm.data.loader.rates import Rates, Shares
from mixlm.data.mixture import Mixture, Part, of_texts
from mixlm.data.shared_vocabulary import SharedVocabulary
from mixlm.data.sources.auto import Text
from mixlm.data.sources.text import TextFiles
from mixlm.data.store.token_store import StoreSplit
from mixlm.data.tasks import TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import UserError
from mixlm.training import run as loop

VOCABULARY = TrainedSentencePiece(112, sentinels=20)


def numbered(first: int, lengths: list[int]) -> StoreSplit:
    split = split_of(lengths)
    return StoreSplit(split.tokens + np.uint32(first), split.offsets, 0)


SPLITS = (numbered(1, [3, 9, 4]), numbered(100, [5] * 6), numbered(1000, [2, 30]))


def mixed(seed: int = 3, epochs: tuple[int, ...] | None = None, block_length: int = 4) -> Mixed:
    """Three sources of numbers that tell where they come from, by rates that change, or by epochs."""
    counts = epochs or (None, None, None)
    walks = tuple(Repeated(split, block_length, seed, None, count) for split, count in zip(SPLITS, counts))
    rates = Rates((Shares((7, 2, 1)), Shares((1, 1, 0))), (0, 4))
    if epochs:
        rows = [math.ceil(walk.num_tokens * count / block_length) for walk, count in zip(walks, counts)]
        rates = Rates((Shares(tuple(rows)),))
    return Mixed(("a", "b", "c"), walks, rates, seed)


def source(row: np.ndarray) -> int:
    return int(np.searchsorted([100, 1000], max(row), side="right"))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), per_process=st.integers(1, 2), steps=st.integers(1, 6))
def test_each_source_is_walked_as_if_alone_whatever_the_processes(seed, per_process, steps):
    walk = mixed(seed)
    for processes in (1, 2, 8):
        size = per_process * processes
        whole = [Batches(walk, size).batch(step)["tokens"] for step in range(steps)]
        parts = [
            [Batches(walk, size, process, processes).batch(step)["tokens"] for process in range(processes)]
            for step in range(steps)
        ]
        assert [np.concatenate(step).tolist() for step in parts] == [step.tolist() for step in whole]
        rows = [tuple(row) for step in whole for row in step]
        for number, part in enumerate(walk.parts):
            count = walk.counts(steps, size)[number]
            mine = [row for row in rows if source(row) == number]
            # A step's rows change places, so only what is read by the end of a step is the same set.
            assert sorted(mine) == sorted(map(tuple, part.blocks(np.arange(count)).tolist()))
        assert walk.fingerprint == mixed(seed + 1).fingerprint


@settings(max_examples=25, deadline=None)
@given(
    epochs=st.tuples(*[st.integers(1, 3)] * 3),
    batch_size=st.integers(1, 9),
    block_length=st.integers(2, 9),
    seed=st.integers(0, 2**31),
)
def test_rates_from_epochs_show_every_token_of_every_source_exactly_so_often(epochs, batch_size, block_length, seed):
    walk = mixed(seed, epochs, block_length)
    rows = sum(math.ceil(part.num_tokens * count / block_length) for part, count in zip(walk.parts, epochs))
    steps = math.ceil(rows / batch_size)
    seen = np.concatenate([walk.rows(step, batch_size, np.arange(batch_size)).ravel() for step in range(steps)])
    wanted = [token for split, count in zip(SPLITS, epochs) for token in split.tokens.tolist() * count]
    assert sorted(seen[seen > 0].tolist()) == sorted(wanted)
    figures = walk.figures(steps, batch_size)
    assert [figures[f"data/{name}/epoch"] for name in walk.names] == list(epochs)
    assert figures["tokens"] == len(wanted)
    assert not walk.rows(steps, batch_size, np.arange(batch_size)).any(), "what follows the end is padding"


def test_a_step_far_away_is_found_without_those_before_it(monkeypatch):
    walk, step, size = mixed(), 10_000_000, 64
    laid_out = []
    lay_out = Repeated._lay_out_epoch
    monkeypatch.setattr(Repeated, "_lay_out_epoch", lambda self, epoch: laid_out.append(epoch) or lay_out(self, epoch))
    batch = mixed().rows(step, size, np.arange(size))
    assert len(laid_out) <= 2 * 64
    counts = [4 * size * 7 // 10, 4 * size * 2 // 10, 4 * size // 10]
    # 256 rows at 7, 2 and 1; then every other row from each of the first two.
    assert np.abs(np.subtract(walk.counts(4, size), counts)).max() <= 1
    before = [walk.counts(4, size)[number] + (step - 4) * size // 2 for number in (0, 1)]
    rows = [part.block(before[number] + index) for index in range(32) for number, part in enumerate(walk.parts[:2])]
    assert sorted(batch.tolist()) == sorted(row.tolist() for row in rows)
    for start in (step, step + 1):
        found, tokens = next(Batches(walk, size).iterate(start))
        assert found == start
        np.testing.assert_array_equal(tokens["tokens"], walk.rows(start, size, np.arange(size)))


def test_no_source_keeps_to_one_process_and_seeds_differ():
    walk = mixed()
    places = np.array([[source(row) for row in walk.rows(step, 8, np.arange(8))] for step in range(4, 44)])
    assert np.all(np.sum(places == 0, axis=1) == 4)
    assert 0.2 < np.mean(places[:, 0] == 0) < 0.8
    other = np.array([[source(row) for row in mixed(4).rows(step, 8, np.arange(8))] for step in range(4, 44)])
    assert np.any(places != other)


# ---- what a mixture is made of ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(corpus, tmp_path_factory) -> tuple[str, str]:
    """A folder of plain text, and a file of JSON lines whose words are others."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "plain").mkdir()
    files = sorted(corpus.glob("*.txt"))
    for path in files[:20]:
        (folder / "plain" / path.name).write_text(path.read_text())
    documents = [path.read_text().replace("farmer", "xylophone") for path in files[20:]]
    lines = (f'{{"text": "{" ".join(document.split())}"}}\n' for document in documents)
    (folder / "talk.jsonl").write_text("".join(lines))
    return str(folder / "plain"), str(folder / "talk.jsonl")


def task(**given) -> TextTask:
    return TextTask(vocabulary=VOCABULARY, **given)


def mixture(texts, rates=(0.7, 0.3), starts=(0,), **given) -> Mixture:
    return Mixture(of_texts(texts, task, **given), rates, starts)


@pytest.fixture(scope="module")
def prepared(texts):
    return mixture(texts, unique_tokens=(4000, None)).prepare(lambda line: None)


def test_each_part_has_its_own_text_and_budget_and_all_have_one_vocabulary(prepared, texts):
    plain, talk = prepared.parts
    assert [part.name for part in prepared.parts] == ["plain", "talk"]
    assert plain.summary.unique_tokens <= 4000 < talk.summary.unique_tokens == talk.summary.tokens["train"]
    assert plain.vocabulary.fingerprint == talk.vocabulary.fingerprint == prepared.vocabulary.fingerprint
    for part, path in zip(prepared.parts, texts):
        wanted = [prepared.vocabulary.encode(text) for text in Text(path).documents("train")]
        np.testing.assert_array_equal(part.store.split("train").tokens, np.concatenate(wanted))
    assert prepared.summary.unique_tokens == sum(part.summary.unique_tokens for part in prepared.parts)
    again = mixture(texts, unique_tokens=(4000, None)).prepare(pytest.fail)
    assert again.summary == prepared.summary


def test_the_vocabulary_is_trained_on_the_text_of_all(texts, prepared):
    sources = tuple(map(Text, texts))
    seen = []

    class Spec:
        def fingerprint(self, text_fingerprint):
            return text_fingerprint

        def load(self, documents, text_fingerprint, cache_dir, log):
            seen.extend([text_fingerprint, list(documents())])
            return prepared.vocabulary

    shared = SharedVocabulary(Spec(), sources)
    shared.load(lambda: [], "nothing", Path(), print)
    assert seen == [shared.fingerprint("other"), [text for each in sources for text in each.documents("train")]]
    assert SharedVocabulary(Spec(), sources[:1]).fingerprint("") != shared.fingerprint("")


def test_validation_and_frequencies_mix_the_parts_by_the_last_rates(prepared, texts):
    blocks = [{tuple(block) for block in part.validation(16).tolist()} for part in prepared.parts]
    rows = prepared.validation_rows(16, 20)
    assert [sum(tuple(row) in part for row in rows.tolist()) for part in blocks] == [14, 6]
    sizes = {tuple(row): found.tolist() for row, found in zip(rows.tolist(), prepared.validation_bytes(16, 20))}
    for part in prepared.parts:
        alone = zip(part.validation(16).tolist(), part.validation_bytes(16, len(part.validation(16))).tolist())
        assert all(sizes.get(tuple(row), found) == found for row, found in alone)
    # Every tenth of the rows has its share, so that every batch of a validation does.
    assert sum(tuple(row) in blocks[1] for row in rows[:10].tolist()) == 3
    size = prepared.validation_size(16)
    fits = [math.floor(len(part.validation(16)) / rate) for part, rate in zip(prepared.parts, (0.7, 0.3))]
    assert abs(size - min(fits)) <= 3
    frequencies = prepared.token_counts() / prepared.token_counts().sum()
    parts = [part.token_counts() / part.token_counts().sum() for part in prepared.parts]
    np.testing.assert_allclose(frequencies, 0.7 * parts[0] + 0.3 * parts[1], atol=1e-9)
    changed = mixture(texts, ((1, 0), (0, 1)), (0, 5), unique_tokens=(4000, None)).prepare(pytest.fail)
    assert all(tuple(row) in blocks[1] for row in changed.validation_rows(16, 5).tolist())


def test_names_come_from_paths_and_differ():
    parts = of_texts(("a/wiki/", "b/wiki.jsonl.gz", "c/my books.txt"), task, unique_tokens=7, epochs=(1, 2, 3))
    assert [part.task.name for part in parts] == ["wiki", "wiki_2", "my_books"]
    assert [part.unique_tokens for part in parts] == [7, 7, 7] and [part.epochs for part in parts] == [1, 2, 3]


def part(name: str = "one", **changes) -> Part:
    given = {"vocabulary": VOCABULARY, "add_bos": False} | {
        key: changes.pop(key) for key in ("vocabulary", "add_bos") if key in changes
    }
    return Part(TextTask(name, TextFiles("nowhere"), **given), **changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mixture((), (1.0,)), r"--gin\.TEXTS="),
        (lambda: Mixture((part(), part()), (1.0, 1.0)), "Two parts of the mixture are named 'one'"),
        (
            lambda: Mixture((part(), part("two", add_bos=True)), (1.0, 1.0)),
            "'one' and 'two' differ in their DOCUMENT_BOS",
        ),
        (
            lambda: Mixture((part(), part("two", vocabulary=TrainedSentencePiece(200))), (1.0, 1.0)),
            "'one' and 'two' differ in their vocabulary",
        ),
        (lambda: Mixture((part(), part("two")), (1.0,)), "must have 2 numbers, one for each part"),
        (lambda: Mixture((part(), part("two")), (0.0, 0.0)), "not all of them 0"),
        (lambda: Mixture((part(), part("two"))), "needs RATES, or EPOCHS for every one"),
        (lambda: Mixture((part(epochs=1), part("two"))), "needs RATES, or EPOCHS for every one"),
        (lambda: Mixture((part(epochs=1), part("two", epochs=2)), (1.0, 1.0)), "RATES and EPOCHS both say"),
        (lambda: Mixture((part(epochs=0), part("two", epochs=2))), "EPOCHS must be whole numbers above 0, got 0"),
        (lambda: Mixture((part(), part("two")), ((1.0, 1.0), (1.0, 2.0))), "must be 2 rising steps from 0 on"),
        (lambda: Mixture((part(), part("two")), ((1.0, 1.0), (1.0, 2.0)), (0, 0)), "rising steps from 0 on"),
        (lambda: Mixture((part(epochs=1),), None, (0, 5)), "rates that follow from EPOCHS do not change"),
        (lambda: of_texts(("a", "b"), task, unique_tokens=(1,)), "one number, or 2: one for each of TEXTS"),
    ],
)
def test_mixtures_that_contradict_themselves_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_a_part_at_fault_is_named(prepared, texts, tmp_path):
    with pytest.raises(UserError, match=r"^plain: UNIQUE_TOKENS = 3 holds no whole document"):
        mixture(texts, unique_tokens=3).prepare(lambda line: None)
    with pytest.raises(UserError, match=r"^There is no file or folder .*nothing'"):
        mixture((texts[0], str(tmp_path / "nothing"))).prepare(lambda line: None)
    (tmp_path / "both").mkdir()
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / "both" / name).write_text("text")
    with pytest.raises(UserError, match=r"both.* holds several kinds of text"):
        Text(str(tmp_path / "both")).fingerprint()


# ---- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Runs on one device, which compiles sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: DEVICES[:1])
        yield


def test_a_run_says_what_it_read_of_each_source(prepared, texts, corpus, tmp_path):
    dataset = mixture(texts, ((0.75, 0.25), (0.0, 1.0)), (0, 2), unique_tokens=(4000, None))
    made = recipe(corpus, tmp_path / "run", dataset=dataset)
    said = []
    loop.train(made, said.append)
    shown = [line for line in said if line.startswith(("data ", "unique "))]
    assert ["plain: 50.00% of the rows;" in shown[0], "talk: 50.00% of the rows;" in shown[2]] == [True, True]
    record = lines(made)
    assert [(line["data/plain/rows"], line["data/talk/rows"]) for line in record] == [(6, 2), (12, 4), (12, 12)]
    sets = [walk.fingerprint for walk in prepared.train(16, 0).parts]
    for name, part, fingerprint in zip(("plain", "talk"), prepared.parts, sets):
        size = part.summary.unique_tokens
        assert record[-1][f"data/{name}/epoch"] == pytest.approx(12 * 16 / size)
        assert {line[f"data/{name}/set"] for line in record} == {fingerprint[:12]}
    identity = json.loads((made.folder / "recipe.json").read_text())
    assert [identity["data/plain"], identity["data/talk"]] == sets
    note = Checkpoints(made.folder / "checkpoints").note(3)
    assert note.pop("lines") == len(record)
    assert {name: record[-1][name] for name in note} == note and note["data/talk/rows"] == 12


def test_a_run_whose_rates_follow_from_epochs_is_as_long_as_they_take(prepared, texts, corpus, tmp_path):
    dataset = mixture(texts, None, unique_tokens=4000, epochs=(3, 1))
    made = recipe(corpus, tmp_path / "run", dataset=dataset, train_steps=None, batch_size=128)
    loop.train(made, lambda line: None)
    last = lines(made)[-1]
    data = dataset.prepare(pytest.fail)
    sizes = [part.summary.unique_tokens for part in data.parts]
    rows = math.ceil(3 * sizes[0] / 16) + math.ceil(sizes[1] / 16)
    assert last["step"] == math.ceil(rows / 128)
    assert (last["data/plain/epoch"], last["data/talk/epoch"]) == (3, 1)
    assert last["tokens"] == 3 * sizes[0] + sizes[1]
    with pytest.raises(UserError, match=r"TRAIN_STEPS = 3 and EPOCHS = \(3, 1\) both say how long the run is"):
        recipe(corpus, tmp_path / "other", dataset=dataset)
    with pytest.raises(UserError, match="EPOCHS = 2 are one text's"):
        recipe(corpus, tmp_path / "other", dataset=dataset, train_steps=None, epochs=2)
    late = mixture(texts, ((1.0, 1.0), (1.0, 2.0)), (0, 3))
    with pytest.raises(UserError, match=r"RATE_STARTS = \(0, 3\) go past the last of 3 steps"):
        recipe(corpus, tmp_path / "other", dataset=late)


def test_a_run_of_epochs_ends_with_its_data(corpus, tmp_path):
    made = recipe(corpus, tmp_path / "run", train_steps=None, epochs=2, batch_size=320)
    said = []
    loop.train(made, said.append)
    record = lines(made)
    tokens = made.dataset.prepare(pytest.fail).summary.unique_tokens
    assert len(record) == math.ceil(math.ceil(2 * tokens / 16) / 320)
    assert (record[-1]["epoch"], record[-1]["tokens"]) == (2, 2 * tokens)
    assert any(line.startswith("unique ") and "each seen 2.00 times" in line for line in said)
    assert {line["set"] for line in record} == {record[0]["set"]} and len(record[0]["set"]) == 12
    loop.train(made, said.append)
    assert "has finished its" in said[-1]
