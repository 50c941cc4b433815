"""What a start makes is made once: not again by the next one, by two at the same time, or by one that was killed."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mixlm.data.dataset import Dataset, PreparedData
from mixlm.data.store import fingerprint_cache
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece

DRIVER = """
import os, signal, sys, time
from dataclasses import dataclass
from pathlib import Path
from mixlm.data.store import journal
from mixlm.data.dataset import Dataset
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece

corpus, cache = sys.argv[1:]
task = TextTask("corpus", TextFiles(corpus), TrainedSentencePiece(vocab_size=112, sentinels=20))
"""


def dataset(corpus: Path, cache: Path) -> Dataset:
    task = TextTask("corpus", TextFiles(str(corpus)), TrainedSentencePiece(vocab_size=112, sentinels=20))
    return Dataset(task, cache_dir=str(cache))


def prepared(corpus: Path, cache: Path, log=lambda line: None) -> PreparedData:
    return dataset(corpus, cache).prepare(log)


def started(program: str, corpus: Path, cache: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", DRIVER + textwrap.dedent(program), str(corpus), str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_start_that_is_killed_while_it_tokenises_goes_on(corpus, tmp_path):
    program = """
        journal.PART_BYTES = 2000

        @dataclass(frozen=True)
        class Killed(TextTask):
            def tokenized(self, vocabulary, split, first=0):
                for number, document in enumerate(super().tokenized(vocabulary, split, first), first):
                    if (split, number) == ("train", 25):
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield document

        Dataset(Killed(task.name, task.source, task.vocabulary), cache_dir=cache).prepare()
    """
    killed = started(program, corpus, tmp_path / "cache")
    _, error = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL, error
    notes: list[str] = []
    again = prepared(corpus, tmp_path / "cache", notes.append)
    assert notes == ["Tokenising corpus (once).", notes[1]]
    assert notes[1].startswith("Going on after 2") and notes[1].endswith("an earlier start had tokenised.")
    whole = prepared(corpus, tmp_path / "other cache")
    assert contents(again.store.folder) == contents(whole.store.folder)
    assert [path.name for path in again.store.folder.parent.iterdir()] == [whole.store.folder.name]


def test_a_second_start_opens_no_text(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint_cache, "SETTLED_SECONDS", -1.0)
    monkeypatch.setattr(fingerprint_cache, "_DIGESTS", {})
    first = prepared(corpus, tmp_path / "cache")
    program = """
        opened = []
        sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
        data = Dataset(task, cache_dir=cache).prepare()
        print(data.summary.fingerprint, sum(path.startswith(corpus) for path in opened), len(opened) > 3)
    """
    again = started(program, corpus, tmp_path / "cache")
    assert again.communicate(timeout=60) == (f"{first.summary.fingerprint} 0 True\n", "")


def test_of_two_starts_at_once_one_makes_everything_and_the_other_waits(corpus, tmp_path):
    program = """
        @dataclass(frozen=True)
        class Slow(TextFiles):
            def documents(self, split):
                for document in super().documents(split):
                    time.sleep(0.1)
                    yield document

        task = TextTask(task.name, Slow(corpus), task.vocabulary)
        print(Dataset(task, cache_dir=cache).prepare(lambda line: print(line, flush=True)).summary.fingerprint)
    """
    both = [started(program, corpus, tmp_path / "cache") for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [error for _, error in said] == ["", ""]
    lines = [output.splitlines() for output, _ in said]
    assert lines[0][-1] == lines[1][-1]
    everything = [line for output in lines for line in output[:-1]]
    assert sum(line.startswith("Training a SentencePiece") for line in everything) == 1
    assert sum(line.startswith("Tokenising") for line in everything) == 1
    assert any(line.startswith("Another process is") and line.endswith("; waiting for it.") for line in everything)


@pytest.mark.parametrize("name", ["train.tokens", "train.offsets", "manifest.json"])
def test_a_corrupt_store_is_named_and_made_again(corpus, tmp_path, name):
    whole = prepared(corpus, tmp_path / "cache")
    before = contents(whole.store.folder)
    path = whole.store.folder / name
    path.write_bytes(before[name][:9] + bytes([before[name][9] ^ 8]) + before[name][10:])
    notes: list[str] = []
    assert contents(prepared(corpus, tmp_path / "cache", notes.append).store.folder) == before
    assert str(path) in notes[0] and "damaged" in notes[0] and notes[0].endswith("It is built again.")
