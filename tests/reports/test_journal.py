"""Laws of the journal: what is noted comes back, examples go on where a run does, and damage costs one line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_up_run import ORIGIN, SUMMARY, examples

from mixlm.errors import UserError
from mixlm.reports.examples import ExampleText, Fill, Piece
from mixlm.reports.journal import (
    add_examples,
    note_end,
    note_start,
    read_examples,
    read_journal,
    resume_examples,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(st.lists(TEXT, min_size=3, max_size=3), st.sampled_from(["text", "masked", "right"]), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_examples_come_back_as_they_were(tmp_path_factory, texts, kind, number):
    one, two, three = texts
    pieces = (Piece(one, kind, two), Piece(three))
    first = [ExampleText(one, number, pieces, (), pieces, part=two), ExampleText(two, 1, (), pieces)]
    second = [ExampleText(three, number, pieces, pieces, fills=(Fill(one, two, three), Fill(two, three, "")))]
    folder = tmp_path_factory.mktemp("run")
    add_examples(folder, 10, first)
    add_examples(folder, 20, second)
    assert read_examples(folder) == [(10, first), (20, second)]


def test_a_resumed_run_makes_the_later_examples_again(tmp_path):
    for step in (10, 20, 30):
        add_examples(tmp_path, step, examples(step / 40))
    resume_examples(tmp_path, 20)
    assert [step for step, _ in read_examples(tmp_path)] == [10, 20]
    add_examples(tmp_path, 20, examples(1.0))  # the same step again takes its place
    add_examples(tmp_path, 30, examples(1.0))
    assert read_examples(tmp_path) == [(10, examples(0.25)), (20, examples(1.0)), (30, examples(1.0))]


def test_damage_costs_its_own_line_alone(tmp_path):
    for step in (10, 20):
        add_examples(tmp_path, step, examples(0.5))
    path = tmp_path / "examples.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 30, "exam\n\xff\n{"step": 40}\n[1]\n')
    assert [step for step, _ in read_examples(tmp_path)] == [10, 20]
    resume_examples(tmp_path, 50)
    add_examples(tmp_path, 60, examples(0.5))
    assert [step for step, _ in read_examples(tmp_path)] == [10, 20, 60]


def test_starts_and_ends_are_kept_in_order(tmp_path):
    assert read_journal(tmp_path) == []
    note_start(tmp_path, 0, ORIGIN, SUMMARY, [])
    note_start(tmp_path, 40, ORIGIN, SUMMARY, ["A sentence."])
    note_end(tmp_path, "SIGTERM came")
    first, second, end = read_journal(tmp_path)
    assert (first["step"], second["step"], end["how"]) == (0, 40, "SIGTERM came")
    assert second["said"] == ["A sentence."] and second["summary"] == SUMMARY and second["device"] == ORIGIN["device"]


def test_no_link_is_written_through(tmp_path):
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "journal.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="it is a link"):
        note_end(tmp_path, "here")
    assert (tmp_path / "elsewhere").read_text() == "kept"
