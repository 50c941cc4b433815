"""metrics.jsonl after any damage: no whole line is lost, what is damaged lies beside it, what is missing is said."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.reports.metrics import Recorder, read
from mixlm.reports.record import DAMAGED, FILE, parse_line, resume


def line(step: int, **values) -> bytes:
    return json.dumps({"step": step, "stage": "s", "loss": step / 7, **values}).encode() + b"\n"


def steps(folder) -> list[int]:
    return [json.loads(each)["step"] for each in (folder / FILE).read_bytes().splitlines()]


GARBAGE = [b"garbage", b"\xff\xfe", b"\0" * 9, b"[]", b'"step"', b"null", b"{}", b'{"step": 1, "sta', b"[" * 9000]
ODD = [
    b'{"stage": "s"}',
    b'{"step": "3", "stage": "s"}',
    b'{"step": 3.0, "stage": "s"}',
    b'{"step": true, "stage": "s"}',
    b'{"step": -1, "stage": "s"}',
    b'{"step": 3}',
    b'{"step": 3, "stage": null}',
    b'{"step": 3, "stage": "s", "loss": ' + b"9" * 400 + b"}",
    b'{"step": 3, "stage": "s", "loss": ' + b"9" * 5000 + b"}",
    b'{"step": 99999999999999999999, "stage": "s"}',
]


@pytest.mark.parametrize("content", [*GARBAGE, *ODD])
def test_a_line_without_a_step_that_counts_is_damaged(content):
    assert parse_line(content) is None
    assert parse_line(content + b"\n") is None


@given(st.lists(st.one_of(st.integers(1, 12), st.sampled_from([*GARBAGE, *ODD, b"", b"  "])), max_size=9), st.data())
@settings(max_examples=40, deadline=None)
def test_whole_lines_are_kept_and_damaged_ones_set_aside(tmp_path_factory, entries, data):
    folder = tmp_path_factory.mktemp("run")
    done = data.draw(st.integers(0, 13))
    contents = [line(entry) if isinstance(entry, int) else entry + b"\n" for entry in entries]
    (folder / FILE).write_bytes(b"".join(contents))
    whole = [entry for entry in entries if isinstance(entry, int)]
    damaged = [entry for entry in entries if not isinstance(entry, int) and entry.strip()]
    assert [record["step"] for record in read(folder)] == whole
    said = resume(folder, done).said
    assert [record["step"] for record in read(folder)] == [step for step in whole if step <= done]
    assert ((folder / DAMAGED).read_bytes() if damaged else b"") == b"".join(each + b"\n" for each in damaged)
    assert len(said) == bool(damaged) and not any(entry.name.startswith(".") for entry in folder.iterdir())
    assert resume(folder, done).said == []


def test_a_damaged_line_is_named_and_what_was_set_aside_stays(tmp_path):
    for _ in range(2):
        (tmp_path / FILE).write_bytes(line(1) + b"\n" + b"gar\xffbage\n" + line(2) + line(3))  # blank lines count
        (sentence,) = resume(tmp_path, 2).said
        assert sentence == f"Line 3 of {FILE} is damaged, and set aside in {tmp_path / DAMAGED}."
        assert (tmp_path / FILE).read_bytes() == line(1) + line(2)
    assert (tmp_path / DAMAGED).read_bytes() == b"gar\xffbage\n" * 2


def test_a_record_that_is_whole_is_not_touched(tmp_path):
    (tmp_path / FILE).write_bytes(line(1) + line(2))
    before = os.stat(tmp_path / FILE)
    found = resume(tmp_path, 2, copies=iter(lambda: pytest.fail("a copy was read"), None), logged=2, period=1)
    assert (found.said, found.steps) == ([], {1, 2})
    after = os.stat(tmp_path / FILE)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@given(st.sets(st.integers(1, 9)), st.sets(st.integers(1, 9)), st.sets(st.integers(1, 9)), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_what_a_copy_holds_comes_back_and_nothing_else_changes(tmp_path_factory, there, newer, older, done):
    """The lines are the union of all up to the step, the record's own where there are two."""
    folder = tmp_path_factory.mktemp("run")
    (folder / FILE).write_bytes(b"".join(line(step, by="record") for step in sorted(there)))
    copies = [b"".join(line(step, by=by) for step in sorted(held)) for by, held in (("newer", newer), ("older", older))]
    said = resume(folder, done, copies, None, 1).said
    wanted = {}
    for by, held in (("older", older), ("newer", newer), ("record", there)):
        wanted |= {step: by for step in held if step <= done}
    assert [(each["step"], each["by"]) for each in read(folder)] == sorted(wanted.items())
    missing = set(range(1, done + 1)) - set(wanted)
    assert any("restore" in sentence for sentence in said) == any(by != "record" for by in wanted.values())
    named = [sentence for sentence in said if "no checkpoint holds them" in sentence]
    assert not named or missing


@pytest.mark.parametrize(
    ("kept", "copy", "logged", "period", "begun", "sentences"),
    [
        ([], range(1, 7), 6, 1, 0, ["had no lines of steps 1 to 6;"]),
        ([1, 2, 5, 6], range(1, 7), 6, 1, 0, ["had no lines of steps 3 to 4;"]),
        ([2, 4, 6], range(1, 7), 6, 1, 0, ["had no lines of steps 1, 3 and 5;"]),
        ([5, 6], [], 6, 1, 0, ["has no lines of steps 1 to 4, and no checkpoint"]),
        ([1, 2, 3], [], None, 1, 0, ["has no lines of steps 4 to 6, and no checkpoint"]),
        ([], [], None, 1, 0, ["has no lines of steps 1 to 6, and no checkpoint"]),
        ([2, 4, 5, 6], [], None, 1, 0, ["has no lines of steps 1 and 3, and no checkpoint"]),
        # Another LOG_PERIOD, a run that began at step 4 of another one, and all that there were.
        ([1, 2, 4, 6], [], None, 1, 0, []),
        ([5, 6], [], None, 1, 4, []),
        ([1, 4], [], 2, 1, 0, []),
        ([1, 2, 4, 6], [], 5, 2, 0, ["has 4 of the 5 lines"]),
    ],
)
def test_what_is_missing_is_said_and_what_is_not_is_not(tmp_path, kept, copy, logged, period, begun, sentences):
    (tmp_path / FILE).write_bytes(b"".join(map(line, kept)))
    said = resume(tmp_path, 6, [b"".join(map(line, copy))], logged, period, begun).said
    assert len(said) == len(sentences)
    for sentence, words in zip(said, sentences):
        assert words in sentence
    assert steps(tmp_path) == sorted({*kept, *copy})


def test_a_record_that_was_deleted_is_restored(tmp_path):
    said = resume(tmp_path, 3, [b"".join(map(line, range(1, 6)))], 3, 1).said
    assert steps(tmp_path) == [1, 2, 3] and "steps 1 to 3" in said[0]


def test_a_long_list_is_cut_short(tmp_path):
    (tmp_path / FILE).write_bytes(b"".join(line(step) for step in range(0, 40, 2)))
    (sentence,) = resume(tmp_path, 39, [b"".join(map(line, range(40)))]).said
    assert "steps 1, 3, 5, 7, 9 and 15 more" in sentence


def test_a_pipe_is_no_record_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / FILE)
    for ask in (lambda: read(tmp_path), lambda: resume(tmp_path, 3), lambda: Recorder(tmp_path, 3)):
        with pytest.raises(UserError, match="is a pipe, and only regular files"):
            ask()
