"""A registered Mixture trains by its name: exact rates, its Tasks as they are, and no seqio in a second start."""

import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mixlm.data.mixture import Mixture, Part
from mixlm.data.seqio_mixture import of_registry
from mixlm.data.seqio_task import SeqioTask
from mixlm.data.store import fingerprint_cache
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece, Vocabulary
from mixlm.errors import NotHere, UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.recipe import Recipe

MODULE = """
import seqio

VOCABULARY = seqio.SentencePieceVocabulary({model!r}, extra_ids=20)
OTHER = seqio.SentencePieceVocabulary({other!r}, extra_ids=20)

def add(name, vocabulary):
    seqio.TaskRegistry.add(
        name + "_{stem}",
        seqio.TextLineDataSource({{"train": "{folder}/" + name + ".txt", "validation": "{folder}/held_out.txt"}}),
        preprocessors=[rename, seqio.preprocessors.tokenize_and_append_eos],
        output_features={{"targets": seqio.Feature(vocabulary)}},
    )

def rename(dataset):
    return dataset.map(lambda line: {{"targets": line}})

add("boats", VOCABULARY)
add("bread", VOCABULARY)
add("alien", OTHER)
mix = seqio.MixtureRegistry.add
mix("fixed_{stem}", [("boats_{stem}", 0.7), ("bread_{stem}", 0.3)])
mix("lines_{stem}", [("boats_{stem}", lambda task: sum(1 for _ in open("{folder}/boats.txt"))), ("bread_{stem}", 6)])
mix("fails_{stem}", [("boats_{stem}", lambda task: 1 / 0), ("bread_{stem}", 6)])
mix("apart_{stem}", [("boats_{stem}", 1), ("alien_{stem}", 1)])
"""
BOATS = ["the farmer sells a boat", "a sailor paints a boat", "no senator buys a boat"] * 4
BREAD = ["the baker carries the bread", "her violin loses the bread"] * 5


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own
        yield


@pytest.fixture(scope="module")
def vocabularies(corpus, tmp_path_factory) -> list[Vocabulary]:
    folder, source = tmp_path_factory.mktemp("vocabulary"), TextFiles(str(corpus))
    tasks = [TextTask("corpus", source, TrainedSentencePiece(vocab_size=size, sentinels=20)) for size in (112, 100)]
    return [task.load_vocabulary(folder, lambda line: None) for task in tasks]


@pytest.fixture
def made(tmp_path, vocabularies, request) -> tuple[Path, str]:
    """A module that registers Mixtures, and the end of their names."""
    stem = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    for name, lines in {"boats": BOATS, "bread": BREAD, "alien": BREAD, "held_out": BOATS + BREAD}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    model, other = (str(vocabulary.path) for vocabulary in vocabularies)
    path = tmp_path / "own_tasks.py"
    path.write_text(MODULE.format(stem=stem, folder=tmp_path, model=model, other=other))
    return path, stem


def task(**given: object) -> SeqioTask:
    return SeqioTask(sentinels=20, mask=4, bos=3, **given)


def mixture(made: tuple[Path, str], name: str, tmp_path: Path, **changes: object) -> Mixture:
    return of_registry(f"{name}_{made[1]}", str(made[0]), task, cache_dir=str(tmp_path / "cache"), **changes)


def test_a_mixture_is_trained_on_by_its_name(made, tmp_path, vocabularies):
    module, stem = made
    given = (
        f"--gin.TASK_MODULE={module}", f"--gin.MIXTURE_OR_TASK_NAME=fixed_{stem}", f"--gin.CACHE_DIR={tmp_path}/cache",
        "--gin.SENTINELS=20", "--gin.TOKEN_IDS=112", "--gin.MASK_ID=4", "--gin.BOS_ID=3", "--gin.VOCAB_SIZE=112",
    )  # fmt: skip
    flags = [
        "--gin_file=dual.gin",
        "--gin_file=data/seqio_mixture.gin",
        *given,
        "--gin.DOCUMENT_BOS=False",
        "--gin.ROW_BOS=True",
    ]
    dataset = configured(parse_flags(flags, ""), Recipe).dataset
    parts = tuple(Part(task(name=f"{name}_{stem}", module=str(module))) for name in ("boats", "bread"))
    assert dataset == Mixture(parts, (0.7, 0.3))
    data = dataset.prepare(lambda line: None)
    for part, lines in zip(data.parts, (BOATS, BREAD)):
        wanted = [[*vocabularies[0].encode(line), 1] for line in lines]
        assert part.store.split("train").tokens.tolist() == [token for line in wanted for token in line]
        assert part.vocabulary.fingerprint == data.vocabulary.fingerprint == vocabularies[0].fingerprint

    walk, steps, size = data.train(8, seed=5), 20, 10
    rows = Counter(tuple(row) for step in range(steps) for row in walk.rows(step, size, np.arange(size)).tolist())
    alone = [part.train(8, seed=5).blocks(np.arange(count)).tolist() for part, count in zip(data.parts, (140, 60))]
    assert walk.counts(steps, size) == [140, 60]
    assert rows == Counter(tuple(row) for blocks in alone for row in blocks)


def test_budgets_and_epochs_are_each_tasks_own(made, tmp_path):
    budgets = mixture(made, "fixed", tmp_path, unique_tokens=(60, None)).prepare(lambda line: None)
    boats, bread = (part.summary for part in budgets.parts)
    assert boats.unique_tokens <= 60 < boats.tokens["train"] and bread.unique_tokens == bread.tokens["train"]
    ended = mixture(made, "fixed", tmp_path, epochs=(1, 4))
    assert (ended.rates, ended.epochs) == (None, (1, 4))
    data = ended.prepare(lambda line: None)
    rows = [-(-epochs * part.summary.unique_tokens // 8) for epochs, part in zip((1, 4), data.parts)]
    assert data.rows_of(8) == sum(rows) and data.train(8, 0).counts(sum(rows), 1) == rows
    with pytest.raises(UserError, match=r"^UNIQUE_TOKENS = \(1, 2, 3\) must be one number, or 2: .* of boats_\w+, br"):
        mixture(made, "fixed", tmp_path, unique_tokens=(1, 2, 3))


SECOND = """
import sys
from mixlm.data.seqio_mixture import of_registry
from mixlm.data.seqio_task import SeqioTask
def task(**given): return SeqioTask(sentinels=20, mask=4, bos=3, **given)
made = of_registry({name!r}, {module!r}, task, cache_dir={cache!r})
print(made.rates, made.prepare(lambda line: None).summary.unique_tokens > 0, "tensorflow" in sys.modules)
"""


@pytest.mark.slow
def test_a_second_start_knows_the_rates_without_seqio_until_something_changes(made, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint_cache, "SETTLED_SECONDS", -1.0)
    first = mixture(made, "lines", tmp_path)
    assert first.rates == (12, 6), "a rate may be a function"
    first.prepare(lambda line: None)

    def second() -> str:
        program = SECOND.format(name=f"lines_{made[1]}", module=str(made[0]), cache=str(tmp_path / "cache"))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return done.stdout.strip().splitlines()[-1]

    assert second() == "(12.0, 6.0) True False"
    with open(tmp_path / "boats.txt", "a") as file:
        file.write("one more\n")
    assert second() == "(13.0, 6.0) True True"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fixd", r"^'[^']*\.py' registers no Mixture 'fixd_\w+'\. Did you mean 'fixed_\w+'\?$"),
        ("boats", r"^'boats_\w+' is no Mixture but a Task; give --gin_file=data/seqio_task\.gin\.$"),
        ("fails", r"^The Mixture 'fails_\w+' does not say its rates: ZeroDivisionError: division by zero\.$"),
        ("a b", r"^The Mixture's name 'a b_\w+' may only hold"),
    ],
)
def test_a_mixture_that_cannot_be_trained_on_is_one_sentence(made, tmp_path, name, words):
    with pytest.raises(UserError, match=words):
        mixture(made, name, tmp_path)


def test_tasks_of_two_vocabularies_are_not_mixed_and_a_name_is_asked_for(made, tmp_path):
    apart = mixture(made, "apart", tmp_path)
    with pytest.raises(UserError, match=r"^The parts 'alien_\w+' and 'boats_\w+' differ in their vocabulary"):
        apart.prepare(lambda line: None)
    with pytest.raises(NotHere, match=r"^No Mixture was named: say --gin\.MIXTURE_OR_TASK_NAME=NAME\.$"):
        of_registry("", "", task)
