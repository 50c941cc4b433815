"""Every command in README and docs is parsed by the program that it names: files, flags and macros exist."""

import re
import sys
import tomllib
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.markdown import PAGES, PROGRAMS, blocks, commands, sent
from support.places import GIN, ROOT

from mixlm.cli import babylm, export, import_, report
from mixlm.data.dataset import PreparedData
from mixlm.data.store.token_store import StoreSplit
from mixlm.data.supervised import of_data
from mixlm.errors import UNFINISHED
from mixlm.gin_config.build import config_text, configured
from mixlm.gin_config.flags import Flags
from mixlm.interop.lm_eval.model import RunModel
from mixlm.recipe import Recipe

RECIPES = sorted(path.stem for path in GIN.glob("*.gin") if "\nRECIPE = " in path.read_text())
FOUND = [(place, words) for page in PAGES for place, words in commands(page)]
# A command may stand for one of every recipe.
FILLED = [
    (f"{place} {name}".strip(), [re.sub(r"\bNAME\b", name, word) for word in words])
    for place, words in FOUND
    for name in (RECIPES if any(re.search(r"\bNAME\b", word) for word in words) else ("",))
]


@pytest.fixture(autouse=True)
def reader_folder(tmp_path, monkeypatch):
    """A working folder with the texts and modules that the pages call yours."""
    for name in ("my_texts/a.txt", "wiki/a.txt", "books.jsonl", "talk.csv", "my_tasks.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    for block in blocks(ROOT / "docs" / "extending.md"):
        if block.title is not None:
            (tmp_path / block.title).write_text(block.text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def ours(words):
    """(module, arguments) where these words start one of mixlm's own commands, here or elsewhere, else None."""
    while (inner := sent(words)) is not None:
        words = inner
    if words[0] == "mixlm":
        return "mixlm.cli.main", words[1:]
    script = re.fullmatch(r"launch/(\w+)\.py", words[1]) if words[0] == "python" and len(words) > 1 else None
    return (f"mixlm.cli.{script[1]}", words[2:]) if script else None


OWN = [(place, ours(words)) for place, words in FILLED if ours(words)]
OTHERS = [(place, words) for place, words in FILLED if not ours(words)]


def test_the_pages_have_commands():
    assert len(OWN) > 40


@pytest.mark.parametrize(("place", "command"), OWN, ids=[place for place, _ in OWN])
def test_a_command_of_ours_is_understood(place, command, printed):
    module, arguments = command
    if arguments in (["--help"], ["--version"]):
        assert "mixlm" in printed(module, *arguments)
        return
    if module == "mixlm.cli.main" and arguments[0] == "report":
        assert report.parse(arguments[1:]).study  # a report reads no recipe
        return
    if module == "mixlm.cli.main" and arguments[0] == "export":
        assert export.parse(arguments[1:]).to in ("hf", "t5x")
        return
    if module == "mixlm.cli.main" and arguments[0] == "import":
        assert import_.parse(arguments[1:]).source.startswith("hf:")
        return
    if module == "mixlm.cli.main" and arguments[0] == "babylm":
        assert babylm.parse(arguments[1:]).run
        return
    if module == "mixlm.cli.main" and arguments[0] == "lm_eval":
        given = arguments[arguments.index("--model_args") + 1].split(",")
        assert {setting.partition("=")[0] for setting in given} <= set(signature(RunModel).parameters)
        return
    finetuned_run(arguments)
    Path("printed.gin").write_text(printed(module, *arguments, "--print_config"))
    # What the whole amounts to is a recipe whose values go together.
    assert isinstance(configured(Flags(gin_files=("printed.gin",)), Recipe), Recipe)


def finetuned_run(arguments):
    """The configuration of the run that a command fine-tunes, whose folder is named by its recipe."""
    begun = [word.removeprefix("--gin.INIT_FROM=") for word in arguments if word.startswith("--gin.INIT_FROM=runs/")]
    if begun and any("finetune/" in word for word in arguments):
        folder = Path(begun[0])
        folder.mkdir(parents=True)
        (folder / "recipe.json").write_text('{"name": "a run"}')
        (folder / "config.gin").write_text(config_text(Flags(gin_files=(f"{folder.name}.gin",)), Recipe))


@pytest.fixture(autouse=True)
def supervised_data(monkeypatch):
    """Examples of which settings follow, in the place of data that are the reader's."""
    counts = np.arange(0, 90, 10)
    split = StoreSplit(np.zeros(80, np.uint16), counts, 80, counts[:-1] + 7)
    data = object.__new__(PreparedData)
    object.__setattr__(data, "store", SimpleNamespace(split=lambda name: split))
    monkeypatch.setattr(of_data, "_prepared", lambda tasks, cache_dir: [data] * len(tasks))


@pytest.mark.parametrize(
    "wrong", ["trian", "train --gin_file=duel.gin", "train --gin_file=dual.gin --gin.ALPH=1", "decode --hw=masked"]
)
def test_a_wrong_command_is_seen(wrong, printed, capsys):
    with pytest.raises(SystemExit):
        printed("mixlm.cli.main", *wrong.split(), "--print_config")
    assert "Did you mean" in capsys.readouterr().err


@pytest.fixture
def printed(monkeypatch, capsys):
    """Runs the main function of a module; returns what it prints."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", ["mixlm", *arguments])
        import_module(module).main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(("place", "words"), OTHERS, ids=[place for place, _ in OTHERS])
def test_any_other_command_names_what_is_there(place, words):
    program, *arguments = words
    if program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = {name for word in arguments for group in re.findall(r"\[([\w,]+)\]", word) for name in group.split(",")}
        assert named <= set(extras), f"{place}: there is no extra {named - set(extras)}"
    elif program == "python":
        source = (ROOT / arguments[0]).read_text()
        for flag in (word.partition("=")[0] for word in arguments[1:]):
            assert f'"{flag}"' in source, f"{place}: {arguments[0]} has no flag {flag}"
    elif program in ("pytest", "bash", "mypy"):
        for path in (word for word in arguments if "/" in word):
            assert (ROOT / path).exists(), f"{place}: {path} does not exist"
    elif program == "if":
        assert arguments[:4] == ["[", "$?", "-ge", str(UNFINISHED)], (
            f"{place}: a run that is not over leaves with {UNFINISHED}"
        )
    elif program == "export":
        assert arguments in (["PYTHONPATH=."], ["MIXLM_CACHE=/shared/cache"])
    else:
        known = ("ruff", "pre-commit", "zensical", *PROGRAMS)
        assert program in known, f"{place}: {program} is not known to this test"


TINY = ["VOCAB_SIZE=112", "EMB_DIM=16", "TRAIN_STEPS=4", "BATCH_SIZE=8", "EVAL_BATCHES=1", "VALIDATION=()"]
TINY += ["Llama.num_layers=1", "Llama.mlp_dim=32", "TokenIds.sentinels=20", "TrainedSentencePiece.sentinels=20"]
TINY += ['TASK_FEATURE_LENGTHS={"targets": 32}']


@pytest.mark.slow  # The README's Python runs the same ways through the code in the quick tests.
def test_the_readme_s_commands_run(printed, corpus):
    shown = [words[1:] for place, words in FOUND if place.startswith("README.md") and words[0] == "mixlm"]
    first = next(index for index, words in enumerate(shown) if words[0] == "explain")
    outputs = []
    for words in shown[first : first + 4]:
        sizes = [f"--gin.{size}" for size in (*TINY, f"TEXT={corpus}")]
        rest = {"evaluate": ["--gin.MODES=causal", "--gin.SCORED_ROWS=2"], "decode": ["--max_tokens=4", "--steps=2"]}
        outputs.append(printed("mixlm.cli.main", *words, "--gin_file=data/text.gin", *sizes, *rest.get(words[0], [])))
    explained, trained, scored, decoded = outputs
    assert "inputs  " in explained and "targets  " in explained
    assert "In runs/dual: curves.png" in trained
    assert "bits per byte" in scored
    assert "continuation  " in decoded and "2 network calls" in decoded
