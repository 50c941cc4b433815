"""Checkpoints by the words that were read: at which steps they lie, what they are called, and that they stay."""

import re
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.decoder_runs import recipe, text
from support.stores import split_of

from mixlm.checkpoints.kept import KeptCheckpoints
from mixlm.data.dataset import Dataset
from mixlm.data.loader.epochs import Repeated
from mixlm.data.loader.interleave import Mixed
from mixlm.data.loader.rates import Rates, Shares
from mixlm.data.seqio_task import SeqioTask
from mixlm.data.words import WordsSeen, name_of, named_steps
from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.recipe import Recipe
from mixlm.training.named import names_of, passed_by, summary_rows


def walked(lengths, epochs=None) -> Repeated:
    """A walk over documents of so many tokens, in rows of four."""
    return Repeated(split_of(lengths), 4, 3, None, epochs)


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(st.tuples(LENGTHS, st.integers(1, 30)), min_size=1, max_size=3),
    batch_size=st.integers(1, 5),
    data=st.data(),
)
def test_a_name_s_step_is_the_first_at_which_a_slow_count_has_so_many_words(parts, batch_size, data):
    walks = tuple(walked(lengths) for lengths, _ in parts)
    blocks = (
        walks[0]
        if len(walks) == 1
        else Mixed(tuple("abc"[: len(walks)]), walks, Rates((Shares((3, 2, 1)[: len(walks)]),)), 1)
    )
    seen = WordsSeen(SimpleNamespace(parts=[SimpleNamespace(words=words) for _, words in parts]), blocks, batch_size)
    slow = [Fraction(0)]
    for step in range(12):
        before, after = blocks.counts(step, batch_size), blocks.counts(step + 1, batch_size)
        read = [4 * (b - a) for a, b in zip(before, after)]
        slow.append(slow[-1] + sum(Fraction(n * words, sum(lengths)) for n, (lengths, words) in zip(read, parts)))
    count = data.draw(st.integers(1, max(int(slow[-1]), 1)))
    if count > slow[-1]:
        return
    wanted = next(step for step, words in enumerate(slow) if words >= count)
    assert named_steps(seen, (float(count),), 12) == {wanted: [name_of(count)]}


def test_words_are_exact_at_the_end_of_every_epoch():
    walk = walked([3, 5, 8], epochs=3)  # 16 tokens, four rows of which are an epoch
    seen = WordsSeen(SimpleNamespace(parts=[SimpleNamespace(words=7)]), walk, 2)
    assert [seen.after(steps) for steps in (2, 4, 6, 9)] == [7, 14, 21, 21]


def test_the_words_are_those_of_the_unique_set(corpus):
    data = text(str(corpus), unique_tokens=3000).prepare(lambda _: None)
    split, unique = data.store.split("train"), data.train(16, 0)
    said = [data.vocabulary.decode(split.tokens[slice(*split.offsets[d : d + 2])].tolist()) for d in unique._documents]
    assert 0 < data.words == sum(len(re.findall(r"\S+", each)) for each in said)
    assert data.words < text(str(corpus)).prepare(lambda _: None).words


def test_names_are_those_of_babylm_s_pipeline():
    assert [name_of(words) for words in (1, 999, 5_000, 1_500_000, 10**6, 10**9)] == [
        "chck_1", "chck_999", "chck_5K", "chck_1500K", "chck_1M", "chck_1000M",
    ]  # fmt: skip
    small = [*range(1, 10), *range(10, 101, 10)]
    strict = [*range(1, 10), *range(10, 100, 10), *range(100, 1001, 100)]
    for track, millions in (("strict_small", small), ("strict", strict)):
        flags = parse_flags(["--gin_file=mile.gin", f"--gin_file=checkpoints/babylm_{track}.gin"], "")
        assert configured(flags, Recipe).keep_at_words == tuple(each * 1e6 for each in millions)


def seen_of(words: int) -> WordsSeen:
    """A run of 10 steps that reads `words` words."""
    return WordsSeen(SimpleNamespace(parts=[SimpleNamespace(words=words)]), walked([40], epochs=1), 1)


def test_more_words_than_the_run_reads_are_refused_but_for_a_hundredth():
    with pytest.raises(UserError, match=r"KEEP_AT_WORDS = 1,000,000 is beyond the 989,999 words that the run's 10 s"):
        named_steps(seen_of(989_999), (1e6,), 10)
    assert named_steps(seen_of(990_000), (1e6, 9e5), 10) == {10: ["chck_900K", "chck_1M"]}


@pytest.mark.parametrize("words", [0, 0.5, -1e6, float("inf"), float("nan"), True])
def test_what_is_no_number_of_words_is_refused(corpus, words):
    with pytest.raises(
        UserError, match=rf"whole numbers of words above 0, such as 1e6, not {re.escape(repr(words))}\."
    ):
        recipe(corpus, "run", keep_at_words=(words,))


def test_data_without_words_are_refused(corpus):
    with pytest.raises(UserError, match="KEEP_AT_WORDS needs a token store, and STREAM = True makes none"):
        recipe(corpus, "run", keep_at_words=(1e3,), dataset=Dataset(text(str(corpus)).task, stream=True))
    data = text(str(corpus)).prepare(lambda _: None)
    other = SimpleNamespace(parts=[type(data)("x", data.vocabulary, data.store, task=SeqioTask("x", ""))])
    with pytest.raises(UserError, match="counts the words of plain text, and the data are a Task of seqio's"):
        WordsSeen(other, data.train(16, 0), 1)


def test_the_summary_says_each_step_before_training(corpus):
    made = recipe(corpus, "run", keep_at_words=(100, 200), train_steps=9)
    data = made.dataset.prepare(lambda _: None)
    blocks = data.train(16, 0)
    names = names_of(made, data, blocks)
    seen = WordsSeen(data, blocks, 8)
    first, second = names
    assert summary_rows(made, data, blocks, names) == [
        ("words", f"{data.words:,} in the unique set, {int(seen.after(9)):,} read in all"),
        ("named", f"chck_100 at step {first} ({int(seen.after(first)):,}), chck_200 at step {second} "
                  f"({int(seen.after(second)):,})"),
    ]  # fmt: skip
    assert names_of(made, None, None) == {} and "waits for the text" in summary_rows(made, None, None, {})[0][1]


def test_a_name_that_an_earlier_start_passed_by_is_told(tmp_path):
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "names.json").write_text('["chck_2K"]')
    names = {2: ["chck_1K"], 4: ["chck_2K"], 8: ["chck_3K"]}
    said = passed_by(names, KeptCheckpoints(tmp_path), 6)
    assert said == ["Not kept, as this start goes on after step 6: chck_1K (step 2)."]
    assert passed_by(names, KeptCheckpoints(tmp_path), 0) == []
