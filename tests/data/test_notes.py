"""What is so of the data is told once to each listener; what happens to them, whenever it happens."""

from functools import partial

import pytest

from mixlm.data.dataset import Dataset
from mixlm.data.mixture import Mixture, Part
from mixlm.data.notes import note
from mixlm.data.sources.text import TextFiles
from mixlm.data.tasks import TextTask
from mixlm.data.vocabularies.given import GivenVocabulary


@pytest.fixture
def texts(tmp_path):
    """Two folders with copies in them, a file that is not read, and one document that both have."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number, text in enumerate(["One text.", "One text.", f"Text of {folder}.", "Another text."]):
            (tmp_path / folder / f"{number}.txt").write_text(text)
        (tmp_path / folder / "notes.pdf").write_text("")
    return [TextTask(name, TextFiles(str(tmp_path / name), 0.4), GivenVocabulary("bytes")) for name in ("a", "b")]


def listener(said):
    return partial(said.append)  # as a command's own, one object for all of its runs


@pytest.mark.parametrize("kind", ["one", "mixed", "streamed"])
def test_the_runs_of_a_study_tell_once_what_is_so_of_their_data(texts, tmp_path, kind):
    said, other = [], []
    first, second = listener(said), listener(other)

    def prepare(log, epochs):
        cache = str(tmp_path / "cache")
        if kind == "mixed":
            return Mixture(tuple(Part(task, epochs=epochs) for task in texts), cache_dir=cache).prepare(log)
        return Dataset(texts[0], cache_dir=cache, stream=kind == "streamed").prepare(log)

    prepare(first, 1)
    told = list(said)
    assert len(told) == len(set(told)) >= 2
    prepare(first, 2)
    assert said == told
    prepare(second, 3)
    assert other == [line for line in told if not line.startswith("Tokenising")]


def test_what_has_no_text_is_not_told_and_a_listener_that_cannot_be_looked_up_hears_all():
    said = []

    class Listener:
        __hash__ = None

        def __call__(self, text):
            said.append(text)

    both = Listener()
    for text in ("", "a", "a"):
        note(both, text)
    assert said == ["a", "a"]
    one = listener(said)
    for text in ("", "b", "b"):
        note(one, text)
    assert said == ["a", "a", "b"]
